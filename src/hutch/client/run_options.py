"""What a run may be asked for besides its prompt."""

from __future__ import annotations

import base64
import mimetypes
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypedDict


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file for the agent; an image is shown to the model."""

    name: str
    media_type: str
    content: bytes = field(repr=False)

    @classmethod
    def of(cls, path: str | Path) -> Self:
        file = Path(path)
        media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return cls(file.name, media_type, file.read_bytes())

    def to_json(self) -> dict[str, str]:
        data = base64.b64encode(self.content).decode()
        return {"name": self.name, "media_type": self.media_type, "data": data}


class RunOptions(TypedDict, total=False):
    """As in ``docs/api.md``; None is as if it was left out. Not every CLI can do each of them."""

    session_id: str | None  # go on with this one
    model: str | None
    timeout_s: float | None  # the run's own limit, the wait for a container included
    system_prompt: str | None
    append_system_prompt: str | None
    max_turns: int | None
    max_cost_usd: float | None
    output_schema: Mapping[str, Any] | None
    permission_mode: str | None  # auto, or ask: then what changes something waits for ``decide``
    approval_timeout_s: float | None
    attachments: Sequence[Attachment]
    diff: bool | None  # tell what it changed in the workspace: ``changes(run_id)``
    idempotency_key: str | None  # one that a repeat from another process knows, too


def body_and_headers(
    provider: str, prompt: str, options: RunOptions, **more: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """Each call has a key of its own, so that a repeat of it is no second run."""
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    key = given.pop("idempotency_key", None) or secrets.token_hex(16)
    if attachments := given.pop("attachments", None):
        given["attachments"] = [one.to_json() for one in attachments]
    body = {"provider": provider, "prompt": prompt, **given, **more}
    return body, {"idempotency-key": key}
