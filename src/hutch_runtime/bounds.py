"""Make anything that a CLI said fit for the wire: bounded, encodable, finite."""

from __future__ import annotations

import math
from typing import Any, Final

from hutch_runtime.protocol import FIELD_MAX_BYTES

NAME_MAX_CHARS: Final = 256  # of an id or a name, which nobody reads at length
DEPTH_MAX: Final = 24  # of a tool's input
ITEMS_MAX: Final = 1000  # of one list or object in it

_NAMES: Final = frozenset({"tool_id", "name", "session", "model", "cli_version", "approval_id"})


class Cutter:
    """Bounds the fields of one event. ``dropped`` counts the bytes that were cut, ``limit`` is the
    bound that cut most.
    """

    def __init__(self, limit: int = FIELD_MAX_BYTES) -> None:
        self.limit = limit
        self.dropped = 0

    def fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value[:NAME_MAX_CHARS].encode(errors="replace").decode()
            if name in _NAMES and isinstance(value, str)
            else self.value(value, DEPTH_MAX)
            for name, value in fields.items()
        }

    def value(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            return str(value)  # what reads an event refuses numbers without end
        if isinstance(value, dict | list):
            return self._nested(value, depth)
        return value

    def text(self, text: str) -> str:
        # Half of a surrogate pair, which JSON can carry, has no UTF-8.
        encoded = text.encode(errors="replace")
        if len(encoded) <= self.limit:
            return text if encoded.isascii() else encoded.decode()
        cut = encoded[: self.limit].decode(errors="ignore")
        self.dropped += len(encoded) - len(cut.encode())
        return cut

    def _nested(self, value: dict[str, Any] | list[Any], depth: int) -> Any:
        if depth == 0:
            self.dropped += 1
            return "…"
        self.dropped += max(0, len(value) - ITEMS_MAX)
        if isinstance(value, list):
            return [self.value(item, depth - 1) for item in value[:ITEMS_MAX]]
        items = list(value.items())[:ITEMS_MAX]
        return {self.text(key): self.value(item, depth - 1) for key, item in items}
