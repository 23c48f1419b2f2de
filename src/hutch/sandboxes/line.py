"""The line of users who wait for a container: fair between them, by weight. Pure.

Self-clocked fair queueing (Golestani, INFOCOM 1994), with a container's turn in place of a packet:
who joins is due one share (1 / weight) after the one served last, and who is due first goes first.
So nobody is passed by another one more often than their weights say, however often that one comes
back; and a stream of newcomers passes nobody for ever, since each of them is due later than the
one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count


class Line:
    def __init__(self) -> None:
        self._waiting: dict[str, tuple[float, int]] = {}  # when due, then in order of arrival
        self._due = 0.0  # of the one served last
        self._tickets = count()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._waiting

    def __iter__(self) -> Iterator[str]:
        """The next one first."""
        return iter(sorted(self._waiting, key=self._waiting.__getitem__))

    def join(self, user_id: str, *, weight: float) -> None:
        """Keeps the place of one who waits already."""
        if user_id not in self._waiting:
            self._waiting[user_id] = (self._due + 1 / weight, next(self._tickets))

    def leave(self, user_id: str) -> None:
        """Without having been served, which costs nothing."""
        self._waiting.pop(user_id, None)

    def next(self) -> str | None:
        return min(self._waiting, key=self._waiting.__getitem__, default=None)

    def serve(self, user_id: str) -> None:
        due, _ = self._waiting.pop(user_id)
        self._due = max(self._due, due)

    def position(self, user_id: str) -> int:
        """1 is next."""
        mine = self._waiting[user_id]
        return 1 + sum(place < mine for place in self._waiting.values())
