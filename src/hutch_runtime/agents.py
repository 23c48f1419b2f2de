"""The pool: agents started ahead of need, one per session, kept for the next turn.

For each provider it keeps a spare, which is a new session ready for its first prompt, and the
agents of sessions that had a turn. What it does not own: the CLI's session files, by which a
session outlives its agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hutch_runtime.protocol import AgentOrigin, Options, Provider
from hutch_runtime.providers.base import PLAIN, Agent, AgentStartFailed, Driver

_log = logging.getLogger(__name__)

# An idle Claude process holds 100 to 130 MB of the sandbox's 512: the spare and one session's.
IDLE_PROCESSES_MAX: Final = 2
IDLE_SESSIONS_MAX: Final = 16  # where one process holds them all
# Starting an agent takes the sandbox's whole CPU for half a second, which a prompt that follows an
# answer at once should not have to share.
REFILL_AFTER_S: Final = 1.0
RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
REASONS_KEPT: Final = 64  # sessions of which we remember why their agent ended
REASON_MAX_CHARS: Final = 500
ONCE: Final = "the run before had options of its own"
OWN: Final = "this run has options of its own"
FORKED: Final = "the session was forked"
RESTED: Final = "the sandbox was put away"


@dataclass(frozen=True, slots=True)
class Lease:
    """An agent for one turn. ``restarted`` says why an earlier session needed a new one."""

    agent: Agent
    origin: AgentOrigin
    driver: Driver
    restarted: str | None = None
    once: bool = False  # made with options that the session's next turn must not have


@dataclass(slots=True)
class _Slot:
    agent: Agent
    driver: Driver
    busy: bool = True
    idle_since: float = 0.0


@dataclass(slots=True)
class _Shelf:
    """What the pool holds of one provider."""

    driver: Driver
    wanted: bool  # a spare is
    spare: Agent | None = None
    spare_since: float = 0.0
    starting: asyncio.Task[None] | None = None
    tried: bool = False
    failure: str = ""
    failures: int = 0
    renewed: str = ""  # why there is another driver now
    slots: OrderedDict[str, _Slot] = field(default_factory=OrderedDict)  # least lately used first
    ended: OrderedDict[str, str] = field(default_factory=OrderedDict)  # session → why
    turn_began: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def idle_max(self) -> int:
        return IDLE_SESSIONS_MAX if self.driver.shares_process else IDLE_PROCESSES_MAX


class Pool:
    def __init__(
        self,
        drivers: Mapping[Provider, Driver],
        *,
        prewarm: tuple[Provider, ...],
        idle_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shelves = {
            name: _Shelf(driver, wanted=name in prewarm, tried=name not in prewarm)
            for name, driver in drivers.items()
        }
        self._idle_s = idle_s
        self._clock = clock
        self._turns = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._prewarming: set[asyncio.Task[Any]] = set()
        self._refill_timer: asyncio.TimerHandle | None = None
        self._closing = False

    def start(self) -> None:
        """Begin to start agents ahead of need, and to reap idle ones."""
        self._begin_prewarm()
        self._spawn(self._reap())

    @property
    def ready(self) -> bool:
        """Every agent that was to be started ahead has been tried."""
        return all(shelf.tried for shelf in self._shelves.values())

    async def take(
        self, provider: Provider, session: str | None, options: Options = PLAIN
    ) -> Lease:
        """An agent for one turn, to be given back by ``put_back``. Its session must not be in use.

        Raises ``SessionNotFound``, ``AgentStartFailed``.
        """
        shelf = self._shelves[provider]
        self._turns += 1
        try:
            lease = await self._lease(shelf, session, options)
        except BaseException:
            self._turn_ended()
            raise
        shelf.slots[lease.agent.session] = _Slot(lease.agent, lease.driver)
        shelf.turn_began.set()
        return lease

    async def put_back(self, provider: Provider, lease: Lease, *, usable: bool) -> None:
        """The turn is over; ``usable`` False closes the agent."""
        shelf, agent = self._shelves[provider], lease.agent
        slot = shelf.slots.pop(agent.session, None)
        keep = usable and not lease.once
        if slot is not None and keep and agent.alive and lease.driver is shelf.driver:
            slot.busy, slot.idle_since = False, self._clock()
            shelf.slots[agent.session] = slot
        else:
            reason = await _reason(agent) if not agent.alive else "it did not obey"
            if usable and lease.once:
                reason = ONCE
            if lease.driver is not shelf.driver:
                reason = shelf.renewed
            self._remember(shelf, agent.session, reason)
            await agent.close()
            await self._let_go(shelf, lease.driver)
        self._turn_ended()
        await self._evict(shelf)

    async def renew(self, provider: Provider, driver: Driver, reason: str) -> None:
        """Start agents of this provider by ``driver`` from now on. The idle ones end at once, those
        in a turn after it; their sessions are taken up again by the new driver.
        """
        shelf = self._shelves[provider]
        shelf.renewed = reason
        former, shelf.driver = shelf.driver, driver
        spare, shelf.spare = shelf.spare, None
        shelf.failure, shelf.failures = "", 0
        for slot in [slot for slot in shelf.slots.values() if not slot.busy]:
            await self._retire(shelf, slot, reason)
        if spare is not None:
            await spare.close()
        await self._let_go(shelf, former)
        self._refill_in(0 if self._turns == 0 else REFILL_AFTER_S)

    async def rest(self) -> None:
        """End every agent that is not in a turn, so that what it held is in its files. The next
        turn, or ``refill``, starts what it needs.
        """
        if self._refill_timer is not None:
            self._refill_timer.cancel()
        starting = [shelf.starting for shelf in self._shelves.values() if shelf.starting]
        for task in (*self._prewarming, *starting):
            task.cancel()
        await asyncio.gather(*self._prewarming, *starting, return_exceptions=True)
        await asyncio.gather(*(self._rest(shelf) for shelf in self._shelves.values()))

    def refill(self) -> None:
        """Start agents ahead again, in a moment; a turn that begins before goes first."""
        self._refill_in(REFILL_AFTER_S)

    async def _rest(self, shelf: _Shelf) -> None:
        spare, shelf.spare = shelf.spare, None
        if spare is not None:
            await spare.close()
        for slot in [slot for slot in shelf.slots.values() if not slot.busy]:
            await self._retire(shelf, slot, RESTED)
        if not shelf.slots:
            await shelf.driver.rest()

    async def pause(self, provider: Provider, *, busy_s: float, idle_s: float) -> None:
        """Sleep ``busy_s`` while an agent of this provider is in a turn; else ``idle_s``, but not
        into the next turn. For one sleeper per provider.
        """
        shelf = self._shelves[provider]
        if any(slot.busy for slot in shelf.slots.values()):
            await asyncio.sleep(busy_s)
            return
        shelf.turn_began.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(shelf.turn_began.wait(), idle_s)

    def report(self) -> list[dict[str, Any]]:
        """For ``/health``: each agent, and each one that should be there and is not."""
        agents: list[dict[str, Any]] = []

        def add(provider: Provider, state: str, **known: Any) -> None:
            empty = {"session": None, "pid": None, "idle_s": None, "reason": None}
            agents.append({"provider": provider, "state": state, **empty, **known})

        now = self._clock()
        for provider, shelf in self._shelves.items():
            if shelf.spare is not None:
                idle_s = round(now - shelf.spare_since, 1)
                pid = shelf.spare.pid
                add(provider, "spare", session=shelf.spare.session, pid=pid, idle_s=idle_s)
            elif shelf.starting is not None:
                add(provider, "starting")
            elif shelf.failure:
                add(provider, "failed", reason=shelf.failure)
            for session, slot in shelf.slots.items():
                idle_s = 0.0 if slot.busy else round(now - slot.idle_since, 1)
                state = "busy" if slot.busy else "idle"
                add(provider, state, session=session, pid=slot.agent.pid, idle_s=idle_s)
            for session, reason in shelf.ended.items():
                add(provider, "ended", session=session, reason=reason)
        return agents

    async def close(self) -> None:
        self._closing = True
        if self._refill_timer is not None:
            self._refill_timer.cancel()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        agents = [slot.agent for shelf in self._shelves.values() for slot in shelf.slots.values()]
        agents += [shelf.spare for shelf in self._shelves.values() if shelf.spare is not None]
        await asyncio.gather(*(agent.close() for agent in agents), return_exceptions=True)
        drivers = [shelf.driver for shelf in self._shelves.values()]
        await asyncio.gather(*(driver.close() for driver in drivers), return_exceptions=True)

    async def fork(self, provider: Provider, session: str) -> str:
        """Another session with what has been said in this one, which must not be in use; its id.
        Raises ``SessionNotFound``, ``AgentStartFailed``.
        """
        shelf = self._shelves[provider]
        await self._end_idle(shelf, session, FORKED)
        return await shelf.driver.fork(session)

    async def _lease(self, shelf: _Shelf, session: str | None, options: Options) -> Lease:
        while True:
            driver = shelf.driver
            try:
                if driver.makes_own(options):
                    return await self._own(shelf, session, options)
                return await (self._new(shelf) if session is None else self._old(shelf, session))
            except AgentStartFailed:
                if driver is shelf.driver:  # else it was closed under this very start
                    raise

    async def _let_go(self, shelf: _Shelf, driver: Driver) -> None:
        """Close a driver that is not the shelf's any more, once no turn needs it."""
        if driver is not shelf.driver and all(s.driver is not driver for s in shelf.slots.values()):
            await driver.close()

    async def _new(self, shelf: _Shelf) -> Lease:
        if (spare := self._take_spare(shelf)) is not None:
            return Lease(spare, "warm", shelf.driver)
        if shelf.starting is not None:  # nearer to ready than one that starts now
            await asyncio.wait([shelf.starting])
            if (spare := self._take_spare(shelf)) is not None:
                return Lease(spare, "started", shelf.driver)
        driver = shelf.driver
        agent = await driver.spare()
        self._spawn(self._mind(shelf, agent))
        return Lease(agent, "started", driver)

    async def _own(self, shelf: _Shelf, session: str | None, options: Options) -> Lease:
        """An agent that is made with these options, however many others there are."""
        driver = shelf.driver
        once = not driver.keeps_options
        if session is None:
            agent = await driver.spare(options)
            self._spawn(self._mind(shelf, agent))
            return Lease(agent, "started", driver, once=once)
        await self._end_idle(shelf, session, OWN)
        agent = await driver.resume(session, options)
        self._spawn(self._mind(shelf, agent))
        shelf.ended.pop(session, None)
        return Lease(agent, agent.resumed or "resumed", driver, OWN, once=once)

    async def _end_idle(self, shelf: _Shelf, session: str, reason: str) -> None:
        """So that all that it holds is in its files."""
        slot = shelf.slots.get(session)
        if slot is not None and not slot.busy:
            await self._retire(shelf, slot, reason)

    def _take_spare(self, shelf: _Shelf) -> Agent | None:
        spare, shelf.spare = shelf.spare, None
        return spare if spare is not None and spare.alive else None

    async def _old(self, shelf: _Shelf, session: str) -> Lease:
        slot = shelf.slots.pop(session, None)
        if slot is not None and slot.agent.alive:
            return Lease(slot.agent, "live", slot.driver)
        if slot is not None:  # it died this instant, before its minder could say so
            self._remember(shelf, session, await _reason(slot.agent))
            await slot.agent.close()
        driver = shelf.driver
        agent = await driver.resume(session)
        self._spawn(self._mind(shelf, agent))
        reason = shelf.ended.pop(session, "no agent of this session was running")
        return Lease(agent, agent.resumed or "resumed", driver, reason)

    async def _prewarm(self) -> None:
        # One after the other: the sandbox has one CPU, and so the first is warm soonest.
        for shelf in self._shelves.values():
            if shelf.wanted:
                await self._start_spare(shelf)

    async def _start_spare(self, shelf: _Shelf) -> None:
        if shelf.starting is None and shelf.spare is None:
            shelf.starting = self._spawn(self._fill(shelf))
        if shelf.starting is not None:
            await asyncio.wait([shelf.starting])

    async def _fill(self, shelf: _Shelf) -> None:
        driver = shelf.driver
        try:
            agent = await driver.spare()
        except AgentStartFailed as error:
            if driver is shelf.driver:
                self._spare_failed(shelf, str(error))
            else:
                self._refill_in(0)
        else:
            if driver is not shelf.driver:
                await agent.close()
                self._refill_in(0)
                return
            shelf.spare, shelf.spare_since = agent, self._clock()
            shelf.failure, shelf.failures = "", 0
            self._spawn(self._mind(shelf, agent))
        finally:
            shelf.starting, shelf.tried = None, True
        await self._evict(shelf)

    def _spare_failed(self, shelf: _Shelf, reason: str) -> None:
        shelf.failure = reason[:REASON_MAX_CHARS]
        shelf.failures += 1
        delay_s = min(RETRY_FIRST_S * 2 ** (shelf.failures - 1), RETRY_MAX_S)
        _log.warning("no %s agent ahead of need: %s", shelf.driver.provider, shelf.failure)
        self._refill_in(delay_s)

    async def _mind(self, shelf: _Shelf, agent: Agent) -> None:
        """Notice the death of an agent that is not in a turn; there its turn notices."""
        reason = await agent.gone()
        slot = shelf.slots.get(agent.session)
        if shelf.spare is agent:
            shelf.spare = None
            self._spare_failed(shelf, reason)
        elif slot is not None and slot.agent is agent and not slot.busy:
            del shelf.slots[agent.session]
            self._remember(shelf, agent.session, reason)

    def _remember(self, shelf: _Shelf, session: str, reason: str) -> None:
        shelf.ended[session] = reason[:REASON_MAX_CHARS]
        while len(shelf.ended) > REASONS_KEPT:
            shelf.ended.popitem(last=False)

    def _turn_ended(self) -> None:
        self._turns -= 1
        if self._turns == 0:
            self._refill_in(REFILL_AFTER_S)

    def _refill_in(self, delay_s: float) -> None:
        if self._closing:
            return
        if self._refill_timer is not None:
            self._refill_timer.cancel()
        loop = asyncio.get_running_loop()
        self._refill_timer = loop.call_later(delay_s, self._refill)

    def _refill(self) -> None:
        if self._turns == 0 and not self._closing:  # else the end of the last turn asks again
            self._begin_prewarm()

    def _begin_prewarm(self) -> None:
        task = self._spawn(self._prewarm())
        self._prewarming.add(task)
        task.add_done_callback(self._prewarming.discard)

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(max(1.0, min(self._idle_s / 4, 30.0)))
            before = self._clock() - self._idle_s
            for shelf in self._shelves.values():
                for slot in [s for s in shelf.slots.values() if not s.busy]:
                    if slot.idle_since < before:
                        await self._retire(shelf, slot, f"idle for {self._idle_s:.0f} s")

    async def _evict(self, shelf: _Shelf) -> None:
        """Close the idle agents used longest ago until no more are left than may be."""
        while True:
            idle = [slot for slot in shelf.slots.values() if not slot.busy]
            if len(idle) + (shelf.spare is not None) <= shelf.idle_max or not idle:
                return
            await self._retire(shelf, idle[0], "idle, and others were used since")

    async def _retire(self, shelf: _Shelf, slot: _Slot, reason: str) -> None:
        if shelf.slots.get(slot.agent.session) is slot and not slot.busy:
            del shelf.slots[slot.agent.session]
            self._remember(shelf, slot.agent.session, reason)
            await slot.agent.close()

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _reason(agent: Agent) -> str:
    try:
        return await asyncio.wait_for(agent.gone(), 1)
    except TimeoutError:
        return "it ended"
