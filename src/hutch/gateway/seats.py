"""What all connections of one sandbox share: their number, their pace, and their end with it.

A seat is of one incarnation and one way out: a tunnel through an exit that was taken from its user
could meet the next one's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from hutch.gateway.pace import ARRIVALS_BURST_S, Pace
from hutch.gateway.refusals import way_changed
from hutch.gateway.table import SHARED_ADDRESS, Entry, Table
from hutch_runtime.protocol import MIB

# All sandboxes of the process backend come from one address.
_SHARED_FACTOR: Final = 16

_Key = tuple[str, str, str, str | None]  # sandbox, incarnation, egress, exit


@dataclass(slots=True)
class Seat:
    up: Pace
    down: Pace
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class Seats:
    def __init__(
        self, table: Table, *, connections: int, mb_per_s: float, requests_per_s: float
    ) -> None:
        self._table = table
        self._requests_per_s = requests_per_s
        self._limit = connections
        self._mb_per_s = mb_per_s
        self._seats: dict[_Key, Seat] = {}
        self._open: Counter[str] = Counter()
        self._arrivals: dict[str, Pace] = {}  # by address

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

    async def arrived(self, address: str) -> None:
        """One more connection, or request, from there: each costs this process, which is
        everybody's, its time. Waits for its turn.
        """
        pace = self._arrivals.get(address)
        if pace is None:
            rate = self._requests_per_s * (_SHARED_FACTOR if address == SHARED_ADDRESS else 1)
            pace = self._arrivals[address] = Pace(rate, burst_s=ARRIVALS_BURST_S)
        await pace.passed(1)

    @property
    def connections(self) -> int:
        return self._open.total()

    def of(self, entry: Entry) -> Seat:
        key = _key(entry)
        seat = self._seats.get(key)
        if seat is None:
            seat = self._seats[key] = Seat(Pace(self._mb_per_s * MIB), Pace(self._mb_per_s * MIB))
        return seat

    @contextmanager
    def seated(self, entry: Entry) -> Iterator[Seat]:
        """While this task serves the sandbox: it is cancelled when the sandbox leaves the table, or
        gets another way out. Raises ``Refusal`` when that has happened since it was admitted.
        """
        if not self._holds(_key(entry)):
            raise way_changed()
        seat, task = self.of(entry), asyncio.current_task()
        assert task is not None  # noqa: S101 - for mypy: only called in coroutines
        seat.tasks.add(task)
        try:
            yield seat
        finally:
            seat.tasks.discard(task)

    def table_changed(self) -> None:
        """Cut what the table no longer stands for."""
        for key in [key for key in self._seats if not self._holds(key)]:
            for task in self._seats.pop(key).tasks:
                task.cancel()
        for address in [one for one in self._arrivals if not self._table.knows(one)]:
            del self._arrivals[address]

    def _holds(self, key: _Key) -> bool:
        entry = self._table.now(key[0])
        return entry is not None and _key(entry) == key


def _key(entry: Entry) -> _Key:
    exit_id = entry.exit.id if entry.exit else None
    return entry.sandbox_id, entry.incarnation, entry.egress, exit_id
