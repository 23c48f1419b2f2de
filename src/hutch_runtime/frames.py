"""What a terminal's connection between orchestrator and runtime is made of, in both directions:
frames of a kind, a length and so many bytes. Imported by both sides.

Output and input are numbered by byte from a terminal's beginning. Whoever comes back names the
first byte of output that they have not seen, and is told the first byte of input that has not
arrived: nothing is lost or doubled by a connection that breaks.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, Final, Literal, TypeAlias

KIB: Final = 1024

FrameKind: TypeAlias = Literal[0, 1]
DATA: Final[FrameKind] = 0
CONTROL: Final[FrameKind] = 1  # a JSON object

FRAME_MAX_BYTES: Final = 64 * KIB
# Of input that no program has read yet: a client that counts sends no more.
INPUT_WINDOW_BYTES: Final = 64 * KIB
# Of output that a client has not said it has seen. It also bounds what lies on the way.
OUTPUT_WINDOW_BYTES: Final = 128 * KIB
# Of output that is kept: what a client reads again. Greater than what may be on the way.
SCROLLBACK_BYTES: Final = 256 * KIB

COLUMNS_MAX: Final = 1000
ROWS_MAX: Final = 1000

_HEAD: Final = struct.Struct("!BI")


class FrameError(ValueError):
    """What came is no frame; the text holds nothing of it."""


def frame(kind: FrameKind, payload: bytes) -> bytes:
    return _HEAD.pack(kind, len(payload)) + payload


def control(kind: str, /, **fields: Any) -> bytes:
    return frame(CONTROL, json.dumps({"type": kind, **fields}).encode())


class FrameReader:
    """Holds one frame at most."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[FrameKind, bytes]]:
        """The frames that are whole by now. Raises ``FrameError``."""
        self._pending += data
        while len(self._pending) >= _HEAD.size:
            kind, size = _HEAD.unpack_from(self._pending)
            if kind not in {DATA, CONTROL}:
                raise FrameError("a frame of an unknown kind")
            if size > FRAME_MAX_BYTES:
                raise FrameError("a frame that is too large")
            end = _HEAD.size + size
            if len(self._pending) < end:
                return
            payload = bytes(self._pending[_HEAD.size : end])
            del self._pending[:end]
            yield (DATA if kind == DATA else CONTROL), payload


def read_control(payload: bytes) -> dict[str, Any]:
    """Raises ``FrameError``."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise FrameError("a control frame that is no object with a type")
    return value


def count_of(value: object) -> int | None:
    """A number of bytes, or a position; None if it is none."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53:
        return value
    return None


def size_of(rows: object, columns: object) -> tuple[int, int] | None:
    """Rows and columns of a terminal; None if they are no size that one has."""
    for value, most in ((rows, ROWS_MAX), (columns, COLUMNS_MAX)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            return None
    assert isinstance(rows, int)  # noqa: S101  as was looked at above
    assert isinstance(columns, int)  # noqa: S101  the same
    return rows, columns
