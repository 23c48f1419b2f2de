"""Works on a database, taken to a thread together.

A trip to a thread costs more than most queries: two wake-ups, and each time the interpreter's lock
has to change hands. What is asked for in the same moment (twenty claims at once, say) shares one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

_T = TypeVar("_T")
# Whoever is first waits for the last of the trip: 32 queries are some 3 ms.
_TOGETHER_MAX: Final = 32


@dataclass(slots=True, eq=False)
class _Passenger:
    work: Callable[[], Any]
    arrived: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None

    def go(self) -> None:
        try:
            self.result = self.work()
        except BaseException as error:  # noqa: BLE001  it is raised where the work was asked for
            self.error = error

    def arrive(self) -> None:
        if self.arrived.done():  # nobody waits any more
            return
        if self.error is not None:
            self.arrived.set_exception(self.error)
        else:
            self.arrived.set_result(self.result)


class Trips:
    """Works begin in the order in which they were asked for; with one thread they also end in it.
    One event loop at a time.
    """

    def __init__(self, name: str, *, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, name)
        self._waiting: list[_Passenger] = []

    async def take(self, work: Callable[[], _T]) -> _T:
        """What ``work`` returns or raises, in a thread. Once begun it is carried through, also when
        the caller is cancelled meanwhile.
        """
        loop = asyncio.get_running_loop()
        passenger = _Passenger(work, loop.create_future())
        self._waiting.append(passenger)
        if len(self._waiting) == 1:
            loop.call_soon(self._depart, loop)
        return cast("_T", await passenger.arrived)

    async def close(self) -> None:
        """After what has begun."""
        await asyncio.to_thread(self._threads.shutdown)

    def _depart(self, loop: asyncio.AbstractEventLoop) -> None:
        going, self._waiting = self._waiting, []
        for first in range(0, len(going), _TOGETHER_MAX):
            together = [p for p in going[first : first + _TOGETHER_MAX] if not p.arrived.done()]
            if not together:
                continue
            try:
                self._threads.submit(_travel, loop, together)
            except RuntimeError as closed:
                for passenger in together:
                    passenger.arrived.set_exception(closed)


def _travel(loop: asyncio.AbstractEventLoop, together: list[_Passenger]) -> None:
    for passenger in together:
        passenger.go()
    if not loop.is_closed():
        loop.call_soon_threadsafe(_arrive, together)


def _arrive(together: list[_Passenger]) -> None:
    for passenger in together:
        passenger.arrive()
