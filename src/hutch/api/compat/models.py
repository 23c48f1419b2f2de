"""Names of models: a provider, or one and a name that its CLI knows (``claude/opus``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from hutch.api.caller import CallerDep
from hutch.errors import ModelNotFound
from hutch_runtime.protocol import PROVIDERS, Provider

router = APIRouter(prefix="/v1/models", tags=["compatible"])

# Names that clients have built in; what follows is up to the CLI and its model API.
_MAKERS: Final[dict[str, Provider]] = {"claude-": "claude", "gpt-": "codex", "gemini-": "gemini"}
# What Claude Code itself calls the latest of each kind. The other CLIs have no such names.
_LISTED: Final = ("claude", "claude/opus", "claude/sonnet", "claude/haiku", "codex", "gemini")
_NAME: Final = re.compile(r"[A-Za-z0-9][\x21-\x7e]{0,199}")
_SINCE: Final = 1_764_000_000  # a date has to be there; none of these is of one day


@dataclass(frozen=True, slots=True)
class Choice:
    provider: Provider
    model: str | None  # the CLI's default


def choose(name: str) -> Choice:
    """Raises ``ModelNotFound``."""
    maker, slash, model = name.partition("/")
    for provider in PROVIDERS:
        if maker == provider and (not slash or _NAME.fullmatch(model)):
            return Choice(provider, model or None)
    for prefix, provider in _MAKERS.items():
        if name.startswith(prefix) and _NAME.fullmatch(name):
            return Choice(provider, name)
    raise ModelNotFound(
        "There is no such model.",
        hint="It is `claude`, `codex` or `gemini`, or one of these and a name that its CLI knows, "
        "as `claude/opus`.",
    )


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = _SINCE
    owned_by: str = "hutch"


class ModelPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


@router.get("")
async def list_models(_: CallerDep) -> ModelPage:
    """The names that are always there; any other that a CLI knows may follow its provider."""
    return ModelPage(data=[Model(id=name) for name in _LISTED])


@router.get("/{model:path}")
async def get_model(model: str, _: CallerDep) -> Model:
    """Whether the name leads to a provider; only its model API knows whether the model is there."""
    choose(model)
    return Model(id=model)
