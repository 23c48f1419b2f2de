"""What is asked of a database in the same moment shares a trip to a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from hutch.store.trips import Trips


@pytest.fixture
async def trips() -> AsyncIterator[Trips]:
    made = Trips("test", threads=1)
    yield made
    await made.close()


async def test_each_gets_its_own_result_or_error(trips: Trips) -> None:
    def fails() -> int:
        raise LookupError("this one alone")

    found = await asyncio.gather(
        trips.take(lambda: 1), trips.take(fails), trips.take(lambda: 3), return_exceptions=True
    )
    assert found[0] == 1
    assert isinstance(found[1], LookupError)
    assert found[2] == 3


async def test_who_comes_in_the_same_moment_goes_together_in_order(trips: Trips) -> None:
    began: list[int] = []
    arrived = []

    async def one(n: int) -> None:
        await trips.take(lambda: began.append(n))
        arrived.append((n, len(began)))

    await asyncio.gather(*(one(n) for n in range(40)))
    assert began == list(range(40))
    # The first trip had all of the first 32 done before anybody was told.
    assert arrived[0] == (0, 32) or arrived[0] == (0, 40)


async def test_one_who_left_in_time_is_not_begun_and_harms_nobody(trips: Trips) -> None:
    began = []
    leaving = asyncio.create_task(trips.take(lambda: began.append("left")))
    staying = asyncio.create_task(trips.take(lambda: "stayed"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == "stayed"
    assert began == []


async def test_what_has_begun_is_carried_through(trips: Trips) -> None:
    go_on, ended = threading.Event(), threading.Event()

    def work() -> None:
        go_on.wait(10)
        ended.set()

    begun = asyncio.create_task(trips.take(work))
    await asyncio.sleep(0.05)
    begun.cancel()
    with pytest.raises(asyncio.CancelledError):
        await begun
    go_on.set()
    assert await asyncio.to_thread(ended.wait, 10)


async def test_nobody_waits_for_ever_after_the_end() -> None:
    trips = Trips("test", threads=1)
    await trips.close()
    with pytest.raises(RuntimeError):
        await asyncio.wait_for(trips.take(lambda: 1), 5)
