"""Who may have a container now: no more of them than allowed, nor than the host's memory carries.

Whoever needs one stands in a fair line (``sandboxes.line``); the warm pool takes what nobody waits
for. When all places are taken, the sandbox that has been idle longest is asked to go; when none is
idle, those who have had theirs for a whole turn get no further runs until it is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, Self, TypeAlias

import structlog

from hutch.clock import Clock
from hutch.load import Load
from hutch.sandboxes.census import Census, take_census
from hutch.sandboxes.line import Line
from hutch.sandboxes.rows import SandboxRows

_log = structlog.get_logger()

# pool_empty: no warm one is there, and one is made. capacity: as many as there may be. memory: the
# host could not carry one more.
PlaceReason: TypeAlias = Literal["pool_empty", "capacity", "memory"]

_HELD: Final[dict[str, str]] = {
    "capacity": "there are as many containers as there may be",
    "memory": "the host's memory does not carry one more",
}
_LOOK_S: Final = 0.5  # while somebody waits: containers end and memory comes back by themselves
_STALLED_S: Final = 10.0  # held back, without a run, and still there: it cannot be put away


class MakeRoom(Protocol):
    async def __call__(self) -> bool:
        """Put away the sandbox that has been idle longest; false if none can be. It may answer
        before the container is gone.
        """
        ...


class Claimants(Protocol):
    """Those who use containers, and can let go of one."""

    def waits(self, user_id: str) -> None:
        """The user began to wait for a place, or for a container that is being made."""
        ...

    def under_way(self, user_id: str) -> bool:
        """Whether something of the user's goes on in their container."""
        ...

    def hold_back(self, user_id: str) -> None:
        """Begin nothing more for the user until ``go_on``, so that their container becomes idle."""
        ...

    def go_on(self, user_id: str) -> None: ...


# own: they have one. warm: there was one for them. cold: it is made.
Given: TypeAlias = Literal["own", "warm", "cold"]


@dataclass(slots=True)
class _Seat:
    """A user who needs a container, until they have one."""

    asked_at: float
    callers: int = 0
    reason: PlaceReason | None = None
    how: Given = "cold"  # once it is given
    given: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def cold(self) -> bool:
        return self.given.is_set() and self.how == "cold"


@dataclass(slots=True)
class _Held:
    since: float
    idle_since: float | None = None


class Places:
    def __init__(
        self,
        rows: SandboxRows,
        load: Load,
        clock: Clock,
        *,
        most: int,
        reserve_mb: int,
        expected_mb: int,
        starts_at_once: int,
        turn_s: float,
        weight: Callable[[str], Awaitable[float]],
        claimants: Claimants,
        make_room: MakeRoom | None = None,
    ) -> None:
        """``expected_mb``: what a container takes, until ``measured`` tells. Without ``make_room``
        nobody's container is asked for.
        """
        self.most = most
        self.reserve_mb = reserve_mb
        self.expected_mb = expected_mb
        self._rows = rows
        self._load = load
        self._clock = clock
        self._starts_at_once = starts_at_once
        self._turn_s = turn_s
        self._weight = weight
        self._claimants = claimants
        self.make_room = make_room
        self.given: Counter[str] = Counter()  # since the start: own, warm or cold
        self._line = Line()
        self._seats: dict[str, _Seat] = {}
        self._deciding = asyncio.Lock()  # from counting containers to promising one more
        self._wanted = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._since: dict[str, float] = {}  # by user: when their turn began
        self._held: dict[str, _Held] = {}

    async def __aenter__(self) -> Self:
        self._serving = asyncio.create_task(self._serve(), name="places")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)

    @asynccontextmanager
    async def of(self, user_id: str) -> AsyncIterator[Given]:
        """Entered once the user may have a container; to be left once its row is there."""
        weight = await self._weight(user_id)
        seat = self._seats.setdefault(user_id, _Seat(self._clock.now()))
        seat.callers += 1
        try:
            if not seat.given.is_set():
                self._line.join(user_id, weight=weight)
                self._wanted.set()
            elif seat.cold:
                self._claimants.waits(user_id)
            await seat.given.wait()
            yield seat.how
        finally:
            seat.callers -= 1
            if not seat.callers:
                del self._seats[user_id]
                self._line.leave(user_id)
                if self._line or self._held:  # else it is of no interest to anybody
                    self._wanted.set()

    def standing(self, user_id: str) -> tuple[PlaceReason, int] | None:
        """Why the user waits, and their number in the line; None if they do not."""
        seat = self._seats.get(user_id)
        if user_id in self._line and seat is not None:
            return seat.reason or "pool_empty", self._line.position(user_id)
        return ("pool_empty", 1) if seat is not None and seat.cold else None

    def standings(self) -> dict[str, tuple[PlaceReason, int]]:
        """The same of each who waits, in one pass."""
        found: dict[str, tuple[PlaceReason, int]] = {
            user_id: ("pool_empty", 1) for user_id, seat in self._seats.items() if seat.cold
        }
        for position, user_id in enumerate(self._line, start=1):
            found[user_id] = (self._seats[user_id].reason or "pool_empty", position)
        return found

    def waiting(self) -> int:
        """Users who wait for a place."""
        return len(self._line)

    def held(self) -> list[str]:
        return list(self._held)

    async def census(self) -> Census:
        # Before the rows are read: who gets their row meanwhile may be missing in these, and has
        # left their seat when they come.
        given = {user_id for user_id, seat in self._seats.items() if seat.given.is_set()}
        return take_census(await self._rows.live(), given)

    async def begin_member(self, begin: Callable[[], Awaitable[None]]) -> str:
        """Let the pool begin one, if nobody who waits needs the place. "", or why not."""
        async with self._deciding:
            if self._line:
                return "users wait for a place"
            if refused := self._refuses(await self.census()):
                return _HELD[refused]
            await begin()
            return ""

    def _refuses(self, census: Census) -> Literal["capacity", "memory"] | None:
        """Why there may not be one more container, if so."""
        if census.total >= self.most:
            return "capacity"
        memory = self._load.memory()
        if memory is not None:
            # Those that are only just starting have yet to take theirs.
            wanted = self.expected_mb * (census.starting + 1)
            if memory.available_mb - self.reserve_mb < wanted:
                return "memory"
        return None

    async def _serve(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                moved = await self._step()
            except Exception:  # noqa: BLE001  those in line must not wait for ever; it is logged
                _log.exception("places.failed")
                moved = False
            if moved:
                self._wanted.set()
            elif self._line or self._held:
                try:
                    async with asyncio.timeout(_LOOK_S):
                        await self._wanted.wait()
                except TimeoutError:
                    self._wanted.set()

    async def _step(self) -> bool:
        """Serve the next in line, and those behind for whom there are warm ones; whether anything
        was served.
        """
        async with self._deciding:
            census = await self.census()
            self._remember(census)
            self._let_go_on(census)
            for user_id in self._line:
                if user_id in census.owners:  # theirs has to wake, or is about to be replaced
                    self._line.leave(user_id)
                    self._give(user_id, "own")
            first = self._line.next()
            if first is None:
                return False
            if census.warm:
                # All of them by one count: users who come together need not wait for each other's.
                for user_id in list(self._line)[: census.warm]:
                    self._line.serve(user_id)
                    self._give(user_id, "warm")
                return True
            refused = self._refuses(census)
            if refused is None and census.cold < self._starts_at_once:
                self._line.serve(first)
                self._give(first, "cold")
                return True
            for user_id in self._line:
                self._waits(user_id, refused or "pool_empty")
        if refused is not None and self.make_room is not None:
            await self._ask_for_room(census, self.make_room)
        return False

    def _give(self, user_id: str, how: Given) -> None:
        self.given[how] += 1
        seat = self._seats[user_id]
        seat.given.set()
        seat.how = how
        self._since.setdefault(user_id, self._clock.now())
        if seat.cold:
            self._claimants.waits(user_id)

    def _waits(self, user_id: str, reason: PlaceReason) -> None:
        seat = self._seats[user_id]
        changed = seat.reason != reason
        seat.reason = reason
        if changed:
            self._claimants.waits(user_id)

    async def _ask_for_room(self, census: Census, make_room: MakeRoom) -> None:
        coming = census.leaving + census.coming
        if coming >= len(self._line):
            return  # enough are on their way out, or will be warm
        if await make_room():
            return
        now = self._clock.now()
        over = [
            user_id
            for user_id in census.owners
            if user_id not in self._held and now - self._since[user_id] >= self._turn_s
        ]
        if over and len(self._held) + coming < len(self._line):
            longest = min(over, key=self._since.__getitem__)
            self._held[longest] = _Held(now)
            _log.info("places.held_back", user=longest, waiting=len(self._line))
            self._claimants.hold_back(longest)

    def _remember(self, census: Census) -> None:
        now = self._clock.now()
        present = census.owners | {u for u, s in self._seats.items() if s.given.is_set()}
        self._since = {user_id: self._since.get(user_id, now) for user_id in present}

    def _let_go_on(self, census: Census) -> None:
        """Those whose container is gone, or cannot go, or is no longer wanted."""
        now = self._clock.now()
        for user_id, held in list(self._held.items()):
            if self._claimants.under_way(user_id):
                held.idle_since = None
            elif held.idle_since is None:
                held.idle_since = now
            stalled = (
                user_id not in census.leaving_owners
                and held.idle_since is not None
                and now - held.idle_since >= _STALLED_S
            )
            if stalled:
                self._since[user_id] = now  # as if their turn began
            if stalled or not self._line or user_id not in census.owners:
                del self._held[user_id]
                self._claimants.go_on(user_id)
