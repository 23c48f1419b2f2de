from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

# An id, a provider, a number: no line holds what a person wrote.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:-]{1,80}")
OTHER: Final = "(other)"


@dataclass(frozen=True, slots=True)
class Entry:
    """``action`` is a method and a path of the API, or a word of the service's own."""

    action: str
    result: str = "ok"  # or the code of an error
    actor: str = "service"  # the id of a key
    scope: str = ""
    user: str | None = None  # whom it acted for
    source: str = ""  # an address
    target: tuple[tuple[str, str], ...] = ()

    def line(self, at: float, *, times: int = 1) -> str:
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"),
            "actor": self.actor,
            "scope": self.scope,
            "user": self.user,
            "action": self.action,
            "target": {name: plain(text) for name, text in self.target},
            "source": self.source,
            "result": self.result,
        }
        if times != 1:
            told["times"] = times
        return json.dumps(told, separators=(",", ":"))


def plain(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else OTHER
