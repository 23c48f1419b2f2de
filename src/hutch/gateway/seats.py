"""What all connections of one sandbox share: their number, their pace, and their end with it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from hutch.gateway.pace import Pace
from hutch.gateway.table import SHARED_ADDRESS, Entry, Table

# All sandboxes of the process backend come from one address.
_SHARED_FACTOR: Final = 16


@dataclass(slots=True)
class Seat:
    up: Pace
    down: Pace
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class Seats:
    def __init__(self, *, connections: int, mb_per_s: float) -> None:
        self._limit = connections
        self._mb_per_s = mb_per_s
        self._seats: dict[tuple[str, str], Seat] = {}
        self._open: Counter[str] = Counter()

    def take(self, address: str) -> bool:
        """Count one more connection from there; False if there are too many."""
        limit = self._limit * (_SHARED_FACTOR if address == SHARED_ADDRESS else 1)
        if self._open[address] >= limit:
            return False
        self._open[address] += 1
        return True

    def leave(self, address: str) -> None:
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    @property
    def connections(self) -> int:
        return self._open.total()

    def of(self, entry: Entry) -> Seat:
        key = (entry.sandbox_id, entry.incarnation)
        seat = self._seats.get(key)
        if seat is None:
            seat = self._seats[key] = Seat(Pace(self._mb_per_s), Pace(self._mb_per_s))
        return seat

    @contextmanager
    def seated(self, entry: Entry) -> Iterator[Seat]:
        """While this task serves the sandbox: it is cancelled when the sandbox leaves the table."""
        seat, task = self.of(entry), asyncio.current_task()
        assert task is not None  # noqa: S101 - for mypy: only called in coroutines
        seat.tasks.add(task)
        try:
            yield seat
        finally:
            seat.tasks.discard(task)

    def keep(self, table: Table) -> None:
        """Cut the tunnels of every sandbox that is no longer in the table."""
        for key in [key for key in self._seats if not table.has(*key)]:
            for task in self._seats.pop(key).tasks:
                task.cancel()
