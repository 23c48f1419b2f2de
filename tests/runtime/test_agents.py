from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hutch_runtime import agents
from hutch_runtime.agents import Pool
from hutch_runtime.protocol import PROVIDERS, Options
from hutch_runtime.providers.base import PLAIN, AgentStartFailed, SessionNotFound
from tests.runtime.fakes import DriverThatCannotStart, EchoDriver


@asynccontextmanager
async def _pool(
    driver: EchoDriver, *, prewarm: bool = True, idle_s: float = 900
) -> AsyncIterator[Pool]:
    pool = Pool({"claude": driver}, prewarm=("claude",) if prewarm else (), idle_s=idle_s)
    pool.start()
    await _until(lambda: pool.ready)
    yield pool
    await pool.close()
    assert driver.closed
    assert not any(agent.alive for agent in driver.made)


async def _until(wanted: Callable[[], object]) -> None:
    for _ in range(500):
        if wanted():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to pass")


def _in(pool: Pool, state: str) -> list[dict[str, Any]]:
    return [agent for agent in pool.report() if agent["state"] == state]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "REFILL_AFTER_S", 0.01)


async def test_a_session_s_first_agent_is_the_spare_and_then_its_own() -> None:
    driver = EchoDriver()
    async with _pool(driver) as pool:
        first = await pool.take("claude", None)
        assert (first.origin, first.agent) == ("warm", driver.made[0])
        await pool.put_back("claude", first, usable=True)
        second = await pool.take("claude", first.agent.session)
        assert (second.origin, second.agent, second.restarted) == ("live", first.agent, None)
        await pool.put_back("claude", second, usable=True)


async def test_two_at_once_never_get_the_same_agent() -> None:
    driver = EchoDriver()
    async with _pool(driver) as pool:
        leases = await asyncio.gather(*(pool.take("claude", None) for _ in range(4)))
        assert len({id(lease.agent) for lease in leases}) == 4
        assert sorted(lease.origin for lease in leases) == ["started"] * 3 + ["warm"]


async def test_no_spare_is_started_while_a_turn_runs() -> None:
    driver = EchoDriver()
    async with _pool(driver) as pool:
        lease = await pool.take("claude", None)
        await asyncio.sleep(0.1)
        assert len(driver.made) == 1
        await pool.put_back("claude", lease, usable=True)
        await _until(lambda: _in(pool, "spare"))


async def test_a_dead_spare_is_noticed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "RETRY_FIRST_S", 0.05)
    driver = EchoDriver()
    async with _pool(driver) as pool:
        driver.made[0].die()
        await _until(lambda: _in(pool, "failed"))
        assert _in(pool, "failed")[0]["reason"] == "killed by SIGKILL"
        await _until(lambda: _in(pool, "spare"))
        assert _in(pool, "failed") == []


async def test_a_dead_session_s_agent_is_noticed_and_resumed() -> None:
    driver = EchoDriver()
    async with _pool(driver) as pool:
        lease = await pool.take("claude", None)
        await pool.put_back("claude", lease, usable=True)
        driver.made[0].die()
        await _until(lambda: _in(pool, "ended"))
        again = await pool.take("claude", lease.agent.session)
        assert (again.origin, again.restarted) == ("resumed", "killed by SIGKILL")
        await pool.put_back("claude", again, usable=True)


async def test_an_agent_that_dies_the_moment_that_it_is_taken() -> None:
    driver = EchoDriver()
    async with _pool(driver) as pool:
        lease = await pool.take("claude", None)
        await pool.put_back("claude", lease, usable=True)
        driver.made[0].die()  # and its minder had no turn yet
        again = await pool.take("claude", lease.agent.session)
        assert again.agent.alive
        assert (again.origin, again.restarted) == ("resumed", "killed by SIGKILL")


async def test_an_agent_that_cannot_be_used_again_is_closed() -> None:
    driver = EchoDriver()
    async with _pool(driver) as pool:
        lease = await pool.take("claude", None)
        await pool.put_back("claude", lease, usable=False)
        assert not lease.agent.alive
        assert _in(pool, "idle") == []


async def test_a_driver_that_cannot_start_is_reported_and_not_tried_hot() -> None:
    driver = DriverThatCannotStart()
    async with _pool(driver) as pool:  # ready all the same
        assert _in(pool, "failed")[0]["reason"] == "no such program"
        await asyncio.sleep(0.2)
        assert driver.tries == 1
        with pytest.raises(AgentStartFailed):
            await pool.take("claude", None)


async def test_retries_come_later_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "RETRY_FIRST_S", 0.01)
    driver = DriverThatCannotStart()
    async with _pool(driver):
        await asyncio.sleep(0.4)
        assert 3 <= driver.tries <= 6  # at 0, 10, 30, 70, 150, 310 ms


async def test_a_driver_that_recovers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "RETRY_FIRST_S", 0.01)
    driver: DriverThatCannotStart = DriverThatCannotStart(works=lambda: driver.tries > 2)
    async with _pool(driver) as pool:
        await _until(lambda: _in(pool, "spare"))
        assert _in(pool, "failed") == []


async def test_a_failed_take_counts_as_ended() -> None:
    driver = EchoDriver()
    async with _pool(driver) as pool:
        with pytest.raises(SessionNotFound):
            await pool.take("claude", "unknown")
        await pool.put_back("claude", await pool.take("claude", None), usable=True)
        await _until(lambda: _in(pool, "spare"))  # so the count of turns is back at none


@pytest.mark.parametrize(("shares_process", "kept"), [(False, 1), (True, 15)])
async def test_how_many_wait_besides_the_spare(shares_process: bool, kept: int) -> None:  # noqa: FBT001 - a case
    driver = EchoDriver(shares_process=shares_process)
    async with _pool(driver) as pool:
        for _ in range(17):
            await pool.put_back("claude", await pool.take("claude", None), usable=True)
        await _until(lambda: _in(pool, "spare") and len(_in(pool, "idle")) <= kept)
        assert len(_in(pool, "idle")) == kept
        assert driver.made[0].alive is False  # the one used longest ago


async def test_idle_agents_are_closed() -> None:
    driver = EchoDriver()
    async with _pool(driver, prewarm=False, idle_s=0.01) as pool:
        lease = await pool.take("claude", None)
        await asyncio.sleep(1.2)
        assert lease.agent.alive  # in a turn it is not idle
        await pool.put_back("claude", lease, usable=True)
        await _until(lambda: not lease.agent.alive)
        assert "idle" in _in(pool, "ended")[0]["reason"]


async def test_providers_are_started_ahead_one_after_the_other() -> None:
    running = most = 0

    class SlowDriver(EchoDriver):
        async def spare(self, options: Options = PLAIN) -> Any:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1
            return await super().spare(options)

    pool = Pool({name: SlowDriver() for name in PROVIDERS}, prewarm=PROVIDERS, idle_s=900)
    pool.start()
    assert not pool.ready
    await _until(lambda: pool.ready)
    assert (most, len(_in(pool, "spare"))) == (1, 3)
    await pool.close()


async def test_options_are_for_one_run_where_they_end_with_the_agent() -> None:
    driver = EchoDriver()
    wanted = Options(max_turns=3)
    async with _pool(driver) as pool:
        lease = await pool.take("claude", None, wanted)
        assert (lease.origin, driver.made[-1].options) == ("started", wanted)
        session = lease.agent.session
        await pool.put_back("claude", lease, usable=True)
        assert not lease.agent.alive
        plain = await pool.take("claude", session)
        assert driver.made[-1].options == Options()
        assert plain.restarted == agents.ONCE
        await pool.put_back("claude", plain, usable=True)
        # And the agent that is there is ended for one with options.
        again = await pool.take("claude", session, wanted)
        assert (again.origin, again.restarted, plain.agent.alive) == ("resumed", agents.OWN, False)
        await pool.put_back("claude", again, usable=True)
        assert len(_in(pool, "spare")) == 1  # nobody took it


async def test_options_that_stay_with_a_session_let_its_agent_live() -> None:
    driver = EchoDriver(shares_process=True)
    async with _pool(driver) as pool:
        lease = await pool.take("claude", None, Options(system_prompt="x"))
        await pool.put_back("claude", lease, usable=True)
        assert lease.agent.alive
        assert (await pool.take("claude", lease.agent.session)).origin == "live"


async def test_a_fork_is_made_when_no_agent_holds_the_session() -> None:
    driver = EchoDriver()
    async with _pool(driver) as pool:
        lease = await pool.take("claude", None)
        await pool.put_back("claude", lease, usable=True)
        session = lease.agent.session
        assert await pool.fork("claude", session) == f"{session}-fork"
        assert not lease.agent.alive
        assert (await pool.take("claude", session)).restarted == agents.FORKED
        with pytest.raises(SessionNotFound):
            await pool.fork("claude", "nobody's")
