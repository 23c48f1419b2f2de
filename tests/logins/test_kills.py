"""Killed at every moment, a login either goes on in the next container or needs a new sign-in."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.logins.authority import refresh_token
from tests.logins.conftest import World, pids, port_of
from tests.runtime.runtime_process import Runtime

# After the service has given a new refresh token: before the CLI has it, while it writes it down,
# before it is seen, between the two reads, before and after it is stored.
MOMENTS_S = (0.0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.5)


@contextlib.asynccontextmanager
async def orchestrator(world: World, runtime: Runtime) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of its own, which has put the login into the sandbox."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.logins.following",
        str(world.data),
        str(port_of(runtime)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def renewed(world: World, runtime: Runtime) -> asyncio.Task[dict[str, Any]]:
    """Start a run that has to renew the login; returns at the moment when the service has."""
    before = len(world.authority.rotated_at)
    world.authority.expire()
    running = asyncio.create_task(world.run(runtime))
    while len(world.authority.rotated_at) == before:
        assert not running.done(), running
        await asyncio.sleep(0.0005)
    return running


async def goes_on_or_says_so(world: World) -> bool:
    """In a new container, with all that is known from the vault: True when the login works there,
    False when it needs a new one and says so; anything else is a failure.
    """
    stored, state = await world.stored()
    assert world.authority.newest(stored) or stored, "nothing is stored"
    if state == "needs_login":
        return False
    async with world.container() as runtime, world.following(runtime) as it:
        await it.logins.ready(it.sandbox, "codex")
        world.authority.expire()
        last = await world.run(runtime)
        if last["stop_reason"] == "end_turn":
            # It works with what was stored, so that was the newest; and it is again.
            await it.logins.flush(it.sandbox)
            assert world.authority.newest((await world.stored())[0])
            return True
        assert last["error"]["code"] == "provider_auth", last
        assert await it.logins.refused(it.sandbox, "codex") is not None
    assert (await world.stored())[1] == "needs_login"
    return False


@pytest.mark.timeout(180)
async def test_the_orchestrator_killed_loses_nothing(world: World) -> None:
    """The container has the newest, and the next orchestrator finds it there."""
    await world.sign_in()
    async with world.container() as runtime:
        for moment in MOMENTS_S:
            async with orchestrator(world, runtime) as process:
                running = await renewed(world, runtime)
                await asyncio.sleep(moment)
                process.kill()
                await process.wait()
            assert (await running)["stop_reason"] == "end_turn"
        async with world.following(runtime) as it:
            await it.logins.ready(it.sandbox, "codex")
            await it.logins.flush(it.sandbox)
    assert await goes_on_or_says_so(world)
    assert world.authority.replayed == 0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("also", ["container", "both"])
async def test_the_container_killed_goes_on_or_needs_a_login(world: World, also: str) -> None:
    outcomes: dict[float, bool] = {}
    for moment in MOMENTS_S:
        await world.sign_in()
        async with world.container() as runtime, orchestrator(world, runtime) as process:
            assert (await world.run(runtime))["stop_reason"] == "end_turn"
            agents = await pids(runtime)
            running = await renewed(world, runtime)
            await asyncio.sleep(moment)
            if also == "both":
                process.kill()
            await runtime.kill(agents)
            await asyncio.gather(running, return_exceptions=True)
            if also == "container":
                await asyncio.sleep(0.2)  # what it has been told it stores
        outcomes[moment] = await goes_on_or_says_so(world)
    print(outcomes)  # noqa: T201  shown with -s: how long the window is
    assert outcomes[max(MOMENTS_S)], "not stored half a second after its renewal"
    assert not outcomes[0.0], "the CLI did not even have it: it can't have been stored"


async def test_how_long_a_renewal_is_in_the_container_alone(world: World) -> None:
    """From the service's answer to the vault. ADR 0013 says how long; this holds it to that."""
    await world.sign_in()
    took = []
    async with world.container() as runtime, world.following(runtime) as it:
        await it.logins.ready(it.sandbox, "codex")
        await world.run(runtime)
        for _ in range(10):
            running = await renewed(world, runtime)
            token = world.authority.families[0].refresh
            while (
                refresh_token(
                    (await it.vault.login_files("user_" + "0" * 20, "codex"))[0][".codex/auth.json"]
                )
                != token
            ):
                await asyncio.sleep(0.002)
            took.append(time.time() - world.authority.rotated_at[-1])
            await running
    print(sorted(round(each * 1000) for each in took))  # noqa: T201  shown with -s
    assert sorted(took)[len(took) // 2] < 0.5
