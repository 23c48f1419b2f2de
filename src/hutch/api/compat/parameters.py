"""Fields of a request that have no counterpart in a run.

A sampling parameter, which the CLIs do not take, is ignored. What would change what the answer is,
or what the caller does with it, is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from hutch.errors import UnsupportedParameter


class Foreign(BaseModel):
    """A request in another protocol; what is not declared is looked at by ``check``."""

    model_config = ConfigDict(extra="allow")


OWN_TOOLS: Final = "Hutch's agents call tools of their own, not the caller's"
_NONE: Final[Mapping[str, tuple[Any, ...]]] = MappingProxyType({})
# Of both protocols: how a model picks its words, and what is only of use to its maker.
SAMPLING: Final = frozenset({"temperature", "top_p", "top_k", "service_tier", "metadata"})


def check(
    request: Foreign,
    *,
    ignored: frozenset[str],
    refused: Mapping[str, str],
    harmless: Mapping[str, tuple[Any, ...]] = _NONE,
) -> None:
    """``refused``: by name, why. ``harmless``: values of refused ones that ask for what is done
    anyway. Raises ``UnsupportedParameter``.
    """
    for name, value in (request.model_extra or {}).items():
        if name in ignored or _says_nothing(value) or value in harmless.get(name, ()):
            continue
        raise UnsupportedParameter(
            f"`{name[:100]}` is not supported: {refused.get(name, 'it is not known here')}.",
            hint="Leave it out.",
            param=name[:100],
        )


def _says_nothing(value: Any) -> bool:
    return value is None or value is False or value in ([], {}, "", 0)
