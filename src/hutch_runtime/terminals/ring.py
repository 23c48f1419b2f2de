"""The end of a terminal's output, by the number of its bytes from the beginning."""

from __future__ import annotations


class Ring:
    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = bytearray()
        self.end = 0  # bytes that there ever were

    @property
    def start(self) -> int:
        """The first byte that is kept."""
        return self.end - len(self._kept)

    def append(self, data: bytes) -> None:
        self._kept += data
        self.end += len(data)
        if len(self._kept) > self._most:
            del self._kept[: len(self._kept) - self._most]

    def read(self, position: int, most: int) -> bytes:
        """From ``position``, which is kept, on."""
        at = position - self.start
        return bytes(self._kept[at : at + most])
