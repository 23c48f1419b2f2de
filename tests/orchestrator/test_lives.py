"""Whole lives of sandboxes in a few seconds: a random walk of prompts, time, deaths and restarts.

The clock is steered, the engine and the runtime are fakes that fail as told; everything between is
the real thing. After the walk, what was promised is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from hutch.app import Hutch
from hutch.errors import BackendError, HutchError
from hutch.runs.models import Run
from hutch.runs.service import NewRun
from tests.orchestrator.conftest import World, new_user
from tests.orchestrator.test_control import until
from tests.orchestrator.test_rest import HIBERNATE_S, Steered

STEPS = 80
USERS = 4


@dataclass
class Walk:
    world: World
    clock: Steered
    random: random.Random
    users: list[str] = field(default_factory=list)
    accepted: dict[str, str] = field(default_factory=dict)  # run: its user
    sessions: dict[str, str] = field(default_factory=dict)  # user: the session they are in
    killed: int = 0
    ended: Counter[str] = field(default_factory=Counter)

    async def step(self, hutch: Hutch) -> None:
        await self.random.choices(
            [self.prompt, self.pass_time, self.die, self.leave, self.push_out, self.fail],
            weights=[8, 6, 1, 2, 1, 1],
        )[0](hutch)

    async def prompt(self, hutch: Hutch) -> None:
        user_id = self.random.choice(self.users)
        session = self.sessions.get(user_id) if self.random.random() < 0.8 else None
        run = await hutch.runs.submit(user_id, NewRun("claude", "go on", session_id=session))
        self.accepted[run.id] = user_id
        self.sessions[user_id] = run.session_id
        if self.random.random() < 0.7:
            self.note(await hutch.runs.finished(user_id, run.id))

    def note(self, run: Run) -> None:
        if run.error_code in {"session_lost", "sandbox_lost", "sandbox_failed"}:
            self.sessions.pop(run.user_id, None)

    async def pass_time(self, hutch: Hutch) -> None:
        self.clock.later += self.random.choice([20, 310, HIBERNATE_S + 10])
        hutch.driver.wake("idle")
        await asyncio.sleep(self.random.random() * 0.03)

    async def die(self, hutch: Hutch) -> None:
        """A container, whatever it is doing."""
        containers = [c for c in await self.world.backend.list() if c.state != "exited"]
        if containers:
            self.killed += 1
            self.world.backend.end(self.random.choice(containers).handle, exit_code=137)
            hutch.driver.wake("containers")

    async def leave(self, hutch: Hutch) -> None:
        with contextlib.suppress(HutchError):
            await hutch.sandboxes.hibernate(self.random.choice(self.users))

    async def push_out(self, hutch: Hutch) -> None:
        await hutch.idle.make_room()

    async def fail(self, hutch: Hutch) -> None:
        """The engine refuses one thing once."""
        del hutch
        name = self.random.choice(["freeze", "unfreeze", "destroy", "inspect", "start"])
        real = getattr(self.world.backend, name)

        async def fails_once(*_: object, **__: object) -> object:
            setattr(self.world.backend, name, real)
            raise BackendError("the engine hiccups")

        setattr(self.world.backend, name, fails_once)


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost_or_done_twice(world: World, seed: int) -> None:
    world.clock = clock = Steered()
    world.settings = world.settings.model_copy(update={"pool_size": seed % 2, "run_timeout_s": 3e6})
    world.settings = world.settings.model_copy(update={"run_timeout_max_s": 4e6})
    walk = Walk(world, clock, random.Random(seed))  # noqa: S311  a walk, no secret
    for part in range(3):  # with a restart between them, at whatever moment
        async with world.orchestrator() as hutch:
            if part == 0:
                walk.users = [await new_user(hutch, f"user{n}") for n in range(USERS)]
            for _ in range(STEPS // 3):
                await walk.step(hutch)
    async with world.orchestrator() as hutch:
        await check(hutch, walk)


async def check(hutch: Hutch, walk: Walk) -> None:
    backend = walk.world.backend
    for run_id, user_id in walk.accepted.items():
        async with asyncio.timeout(20):
            run = await hutch.runs.finished(user_id, run_id)
        walk.ended[run.error_code or run.state] += 1
        log = [entry async for entry in await hutch.runs.events(user_id, run_id)]
        assert [e.seq for e in log] == list(range(1, len(log) + 1))
        assert [e.type for e in log].count("run.finished") == 1
        assert log[-1].type == "run.finished"
    twice = [r for r, n in Counter(walk.world.runtime.executions).items() if n > 1]
    assert twice == []
    assert set(walk.ended) <= {"succeeded", "session_lost", "sandbox_lost", "sandbox_failed"}
    assert walk.ended["succeeded"] > len(walk.accepted) / 2

    async def tidy() -> bool:
        """Each row has its container, each container its row, each snapshot its file."""
        hutch.driver.wake("containers")
        rows = {s.incarnation for s in await hutch.sandboxes.all()}
        return {c.incarnation for c in await backend.list()} == rows

    await until(tidy)

    async def stored() -> bool:
        """Each snapshot has its file; one may be being replaced at this moment."""
        rows = {snapshot.id for snapshot in await hutch.snapshots.all()}
        return rows <= {path.name for path in hutch.settings.snapshots_dir.glob("*")}

    await until(stored)
    for user_id in walk.users:  # and everybody can go on
        run = await hutch.runs.submit(user_id, NewRun("claude", "after all"))
        assert (await hutch.runs.finished(user_id, run.id)).state == "succeeded"
