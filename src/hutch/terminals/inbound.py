"""Read what a sandbox says of a terminal. The sender is untrusted: what passes has a known type,
known fields of the right kinds, and bounded sizes.
"""

from __future__ import annotations

from typing import Any, Final

from hutch_runtime.frames import FrameError, count_of, read_control

_PLACES: Final = ("offset", "lost", "input", "written")
_REASON_MAX: Final = 300
_SECONDS_MAX: Final = 30 * 24 * 3600.0


def read_said(payload: bytes) -> dict[str, Any] | None:
    """None for what need not be passed on. Raises ``FrameError``."""
    said = read_control(payload)
    match said["type"]:
        case "ready":
            counts = {name: count_of(said.get(name)) for name in _PLACES}
            if None in counts.values():
                raise FrameError("a beginning without its places")
            return {"type": "ready", **counts}
        case "written":
            count = count_of(said.get("input"))
            if count is None:
                raise FrameError("a count that is none")
            return {"type": "written", "input": count}
        case "warning":
            left = said.get("ends_in_s")
            if not isinstance(left, int | float) or not 0 <= left < _SECONDS_MAX:
                raise FrameError("a warning without a time")
            return {"type": "warning", "ends_in_s": left}
        case "exit":
            code, reason = count_of(said.get("code")), said.get("reason")
            if code is None or code > 255 or not isinstance(reason, str):
                raise FrameError("an end without a code")
            text = reason.encode("utf-8", "replace").decode()[:_REASON_MAX]
            return {"type": "exit", "code": code, "reason": text}
        case "replaced":
            return {"type": "replaced"}
        case _:  # that it is alive; or of a runtime that is newer
            return None
