"""Runs each task on its timer or when woken, one at a time, and keeps what it last reported.

A task takes no input and re-reads the state each time: a lost wake-up costs a period, nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

import structlog

from hutch.clock import Clock

_log = structlog.get_logger()

TaskReport = dict[str, int | str]


@dataclass
class Task:
    name: str
    every_s: float
    run: Callable[[], Awaitable[TaskReport]]
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    report: TaskReport = field(default_factory=dict)
    error: str = ""  # the last run's, by type; "" if it went well
    finished_at: float | None = None
    # Who waits for the end of a run that begins from now on.
    awaited: list[asyncio.Future[None]] = field(default_factory=list)


class Driver:
    def __init__(self, tasks: list[Task], clock: Clock) -> None:
        self._tasks = tasks
        self._clock = clock
        self._loops: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._loops = [asyncio.create_task(self._loop(t), name=t.name) for t in self._tasks]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    def status(self) -> list[Task]:
        return list(self._tasks)

    def wake(self, name: str) -> None:
        """Run the task of that name now, if it does not run already."""
        for task in self._tasks:
            if task.name == name:
                task.woken.set()

    async def run_now(self, *names: str) -> list[Task]:
        """Run these one after the other and wait for their ends; what they then report."""
        done = [task for name in names for task in self._tasks if task.name == name]
        for task in done:
            ended = asyncio.get_running_loop().create_future()
            task.awaited.append(ended)
            task.woken.set()
            await ended
        return done

    async def _loop(self, task: Task) -> None:
        while True:
            task.woken.clear()
            awaited, task.awaited = task.awaited, []
            try:
                task.report = await task.run()
                task.error = ""
            except Exception as error:  # noqa: BLE001  a task that fails runs again; it is logged
                if task.error != type(error).__name__:  # once, not every period
                    _log.exception("task.failed", task=task.name)
                task.error = type(error).__name__
            task.finished_at = self._clock.now()
            for ended in awaited:
                if not ended.done():  # its caller went away
                    ended.set_result(None)
            try:
                async with asyncio.timeout(task.every_s):
                    await task.woken.wait()
            except TimeoutError:
                continue
