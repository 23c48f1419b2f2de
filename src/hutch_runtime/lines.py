"""Cut a stream of bytes into lines of bounded length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

END_KEPT_BYTES: Final = 4096


class LineSplitter:
    """Calls ``on_line`` with each line, without its end, and ``on_long_line`` with the number of
    bytes of each line that was dropped for being longer than ``max_bytes``; of that one
    ``long_line_end`` holds the last ``END_KEPT_BYTES``, which may tell what it was.
    """

    def __init__(
        self,
        on_line: Callable[[bytes], None],
        on_long_line: Callable[[int], None],
        *,
        max_bytes: int,
    ) -> None:
        self._on_line = on_line
        self._on_long_line = on_long_line
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._length = 0  # of the unfinished line, dropped or not
        self.long_line_end = b""

    def feed(self, data: bytes) -> None:
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._take(data[start:end])
            self._finish()
            start = end + 1
        if start < len(data):
            self._take(data[start:])

    def close(self) -> None:
        """The stream ended; what is left is a line, if there is anything."""
        if self._length:
            self._finish()

    def _take(self, part: bytes) -> None:
        self._length += len(part)
        if self._length > self._max_bytes:
            kept = (*self._parts, part)
            self._parts.clear()
            self.long_line_end = b"".join((self.long_line_end, *kept))[-END_KEPT_BYTES:]
        else:
            self._parts.append(part)

    def _finish(self) -> None:
        length, parts = self._length, self._parts
        self._length, self._parts = 0, []
        if length > self._max_bytes:
            self._on_long_line(length)
            self.long_line_end = b""
        else:
            self._on_line(b"".join(parts))
