"""What the rest of Hutch asks of sandboxes: give this user theirs, end it, tell how it is.

Asking writes ``desired`` and wakes the reconciler; only the reconciler touches the backend.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from hutch.backends.base import Backend, Stats
from hutch.clock import Clock
from hutch.errors import NotFound, SandboxBusy, SandboxFailed, SnapshotFailed, Unavailable
from hutch.sandboxes.inside import Inside, inside
from hutch.sandboxes.models import ImageRef, Sandbox
from hutch.sandboxes.places import Given, Places
from hutch.sandboxes.reconcile import Egress
from hutch.sandboxes.rows import SandboxRows
from hutch.sandboxes.runtime_client import RuntimeClient, RuntimeRefused, RuntimeUnreachable
from hutch.sandboxes.states import RESTING, Rest

# A cold container under gVisor takes two to four seconds, more when twenty start at once.
READY_WITHIN_S: Final = 90
_ADMIT_RETRY_S: Final = 0.2


class Sandboxes:
    def __init__(
        self,
        rows: SandboxRows,
        backend: Backend,
        runtime: RuntimeClient,
        clock: Clock,
        *,
        image: Callable[[], Awaitable[ImageRef]],
        wake: Callable[[str], None],
        egress: Egress,
        discard: Callable[[str], Awaitable[object]],
        places: Places,
    ) -> None:
        """``discard`` deletes what is stored of a user's sandboxes."""
        self._rows = rows
        self._backend = backend
        self._runtime = runtime
        self._clock = clock
        self._image = image
        self._wake = wake
        self._egress = egress
        self._discard = discard
        self._began_at = clock.now()
        self._places = places
        self._running: dict[str, Sandbox] = {}  # by user: what a prompt needs, without a query
        self._changed: dict[str, asyncio.Event] = {}
        self._claims: dict[str, asyncio.Task[Sandbox | None]] = {}  # by user, under way
        self._confirming: set[asyncio.Task[None]] = set()
        self._holds: dict[str, int] = {}  # by user
        self._used: dict[str, float] = {}  # by user: when somebody last asked for it, or let go
        self._resting: dict[str, asyncio.Event] = {}  # by user: being written down
        self._waiting = 0
        self._asked_at = 0.0  # when somebody last waited for one; 0: never

    async def ensure(self, user_id: str) -> Sandbox:
        """The user's running sandbox, woken or made if need be. Whoever uses it for longer than
        this moment ``hold``s it. Raises ``SandboxFailed``.
        """
        self._used[user_id] = self._clock.now()
        ready = self._running.get(user_id)
        if ready is not None:
            return ready
        async with self._places.of(user_id) as given:
            return await self._claimed_or_made(user_id, given)

    def ready(self, user_id: str) -> bool:
        """Whether ``ensure`` would answer at once."""
        return user_id in self._running

    async def _claimed_or_made(self, user_id: str, given: Given) -> Sandbox:
        self._waiting += 1
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                claimed = await self._claimed(user_id, known=given == "own")
                return claimed or await self._woken_or_made(user_id)
        except TimeoutError:
            raise SandboxFailed(
                f"The sandbox was not ready within {READY_WITHIN_S} seconds.",
                hint="The machine may be overloaded; try again. `hutch doctor` looks for causes.",
            ) from None
        finally:
            self._waiting -= 1
            self._asked_at = self._used[user_id] = self._clock.now()

    async def same(self, user_id: str, incarnation: str) -> Sandbox | None:
        """That very incarnation once it is known to run; None if it is gone. Makes none."""
        row = await self._rows.live_of(user_id)
        if row is None or row.incarnation != incarnation:
            return None
        ready = await self._until_running(row)
        return ready if ready.observed == "running" else None

    @contextlib.contextmanager
    def hold(self, user_id: str) -> Iterator[None]:
        """While it lasts, the user's sandbox is not idle: it is neither frozen nor hibernated."""
        self._holds[user_id] = self._holds.get(user_id, 0) + 1
        try:
            yield
        finally:
            self._used[user_id] = self._clock.now()
            self._holds[user_id] -= 1
            if not self._holds[user_id]:
                del self._holds[user_id]

    def idle_since(self, sandbox: Sandbox) -> float | None:
        """Unix time; None while somebody holds it. After a restart everybody begins anew."""
        if self._holds.get(sandbox.owner):
            return None
        return max(self._used.get(sandbox.owner, self._began_at), sandbox.created_at)

    async def rest(self, sandbox: Sandbox, how: Rest) -> bool:
        """Have it frozen or hibernated; false if it is in use, or neither runs nor is frozen."""
        user_id = sandbox.owner
        if self._holds.get(user_id) or user_id in self._claims or user_id in self._resting:
            return False
        self._running.pop(user_id, None)  # who wants it now has to rouse it
        done = self._resting[user_id] = asyncio.Event()
        try:
            wanted = await self._rows.rest(sandbox.id, how)
        finally:
            del self._resting[user_id]
            done.set()
        self._wake(sandbox.id)
        return wanted

    async def hibernate(self, user_id: str) -> Sandbox:
        """Put the user's sandbox away; returns once its container is gone. Raises ``NotFound``,
        ``SandboxBusy``, ``SnapshotFailed``.
        """
        sandbox = await self.of(user_id)
        if sandbox.observed == "hibernated":
            return sandbox
        if sandbox.observed == "provisioning" or not await self.rest(sandbox, "hibernated"):
            raise SandboxBusy(
                "The container is in use.",
                hint="Wait for its runs to end, or cancel them; end its terminals.",
            )
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                return await self._put_away(sandbox)
        except TimeoutError:
            raise Unavailable(
                "The container is still being put away.", hint="GET /v1/container tells of its end."
            ) from None

    async def _put_away(self, sandbox: Sandbox) -> Sandbox:
        while sandbox.live:
            sandbox = await self._next(sandbox)
            if sandbox.live and sandbox.desired != "hibernated":
                if sandbox.desired == "frozen" and sandbox.reason:
                    raise SnapshotFailed(f"It could not be put away. {sandbox.reason}")
                raise SandboxBusy("Somebody has begun to use the container meanwhile.")
        return sandbox

    async def close(self) -> None:
        """Give up claims under way; their rows decide what the next start finds."""
        claims = [*self._claims.values(), *self._confirming]
        for claim in claims:
            claim.cancel()
        await asyncio.gather(*claims, return_exceptions=True)

    def demand(self) -> tuple[int, float]:
        """How many wait for a sandbox now, and when somebody last did (Unix time; 0: never)."""
        return self._waiting, self._asked_at

    async def _claimed(self, user_id: str, *, known: bool) -> Sandbox | None:
        """A warm one, made the user's; None if there is none, or if they have one already. With
        ``known``, that is looked at first, else the claim itself finds out.

        One claim of a user at a time, carried through when its caller is cancelled: nobody may use
        the sandbox before the gateway knows whose it is.
        """
        if user_id not in self._claims:
            if known and await self._rows.live_of(user_id) and user_id not in self._claims:
                return None
            if user_id not in self._claims:
                claim = asyncio.create_task(self._claim(user_id), name=f"claim {user_id}")
                self._claims[user_id] = claim
        return await asyncio.shield(self._claims[user_id])

    async def _claim(self, user_id: str) -> Sandbox | None:
        try:
            while sandbox := await self._rows.claim(user_id, at=self._clock.now()):
                if await self._answers_and_is_out(sandbox):
                    if sandbox.snapshot_id is not None:
                        return None  # the reconciler puts that into it first
                    self._running[user_id] = sandbox
                    confirming = asyncio.create_task(self._confirm(sandbox), name="confirm")
                    self._confirming.add(confirming)
                    confirming.add_done_callback(self._confirming.discard)
                    return sandbox
                if await self._rows.get(sandbox.id) is not None:
                    await self._rows.want(sandbox.id, "destroyed")
                    await self._until_over(sandbox)
            return None
        finally:
            del self._claims[user_id]

    async def _confirm(self, sandbox: Sandbox) -> None:
        """It may have ended while it was let out, and been dismissed before that."""
        row = await self._rows.get(sandbox.id)
        if row is not None and row.observed == row.desired == "running":
            self._wake(row.id)  # who else is told of changes hears of its user
            return
        self.suspect(sandbox)
        await self._egress.dismiss(sandbox)

    async def _answers_and_is_out(self, sandbox: Sandbox) -> bool:
        """Both at once: each waits for another process. One that is to be given a snapshot is let
        out later.
        """
        answering = asyncio.create_task(self._answers(sandbox))
        try:
            if sandbox.snapshot_id is None:
                async with asyncio.timeout(READY_WITHIN_S):
                    await self._let_out(sandbox)
            return await answering
        finally:
            answering.cancel()

    async def _answers(self, sandbox: Sandbox) -> bool:
        try:
            await self._runtime.health(sandbox)
        except (RuntimeUnreachable, RuntimeRefused):
            return False
        return True

    async def _let_out(self, sandbox: Sandbox) -> None:
        while True:
            try:
                return await self._egress.admit(sandbox)
            except Unavailable:  # the gateway is being restarted
                await asyncio.sleep(_ADMIT_RETRY_S)

    async def _woken_or_made(self, user_id: str) -> Sandbox:
        while True:
            while resting := self._resting.get(user_id):
                await resting.wait()
            sandbox = await self._rows.live_of(user_id) or await self._make(user_id)
            if sandbox is None:  # another request was first
                continue
            if sandbox.desired == "destroyed":
                await self._until_over(sandbox)
                continue
            ready = await self._until_running(sandbox)
            if ready.observed == "running":
                return ready
            if ready.observed == "failed" and sandbox.observed == "provisioning":
                raise SandboxFailed(
                    f"The sandbox could not be made: {ready.reason}",
                    hint="Try again; `hutch doctor` on the server looks for the cause.",
                )

    async def _make(self, user_id: str) -> Sandbox | None:
        now = self._clock.now()
        fresh = Sandbox.begin(await self._image(), user_id=user_id, desired="running", at=now)
        return fresh if await self._rows.add(fresh) else None

    async def _until_running(self, sandbox: Sandbox) -> Sandbox:
        """Until it is given to its user, or is over."""
        while True:
            changed = self._changed.setdefault(sandbox.id, asyncio.Event())
            ready = self._running.get(sandbox.owner)
            if ready is not None and ready.id == sandbox.id:
                return ready
            row = await self._rows.get(sandbox.id)
            if row is None:
                raise _gone()
            if not row.live:
                return row
            if row.desired in RESTING:
                await self._rows.rouse(row.id)
            self._wake(row.id)
            await changed.wait()

    async def destroy(self, user_id: str) -> Sandbox:
        """End the user's sandbox and all in it, also what is stored of it; returns once it is gone.
        Raises ``NotFound``.
        """
        if user_id in self._claims:
            await asyncio.wait({self._claims[user_id]})
        sandbox = await self.of(user_id)
        self._running.pop(user_id, None)
        if sandbox.live:
            await self._rows.want(sandbox.id, "destroyed")
            sandbox = await self._until_over(sandbox)
        await self._discard(user_id)
        await self._rows.end_hibernated(user_id, at=self._clock.now(), reason="")
        return await self._rows.get(sandbox.id) or sandbox

    async def of(self, user_id: str) -> Sandbox:
        """The user's live sandbox, or their hibernated one. Raises ``NotFound``."""
        sandbox = await self._rows.live_of(user_id) or await self._rows.hibernated_of(user_id)
        if sandbox is None:
            before = await self._rows.last_words(user_id)
            raise NotFound(
                "There is no container." + (f" The last one: {before}" if before else ""),
                hint="The next run makes one.",
            )
        return sandbox

    async def all(self) -> list[Sandbox]:
        return await self._rows.live()

    async def stats(self, sandbox: Sandbox) -> Stats | None:
        if sandbox.handle is None or sandbox.observed not in {"warm", "running", "frozen"}:
            return None
        return await self._backend.stats(sandbox.handle)

    async def inside(self, sandbox: Sandbox) -> Inside:
        """What the runtime tells of its agents and directories; nothing if it does not answer."""
        if sandbox.observed != "running":
            return Inside()
        try:
            return inside(await self._runtime.health(sandbox))
        except (RuntimeUnreachable, RuntimeRefused):
            return Inside()

    def suspect(self, sandbox: Sandbox) -> None:
        """Somebody could not reach it: look before anybody is sent there again."""
        if self._running.get(sandbox.owner) == sandbox:
            del self._running[sandbox.owner]
        self._wake(sandbox.id)

    def changed(self, sandbox: Sandbox) -> None:
        """The reconciler's word that the row is now this."""
        user_id = sandbox.user_id
        if user_id is None:  # nobody's: nobody is sent there
            pass
        elif sandbox.observed == "running" and sandbox.desired == "running":
            if user_id not in self._claims:  # else the gateway may not know it yet
                self._running[user_id] = sandbox
        elif (known := self._running.get(user_id)) and known.id == sandbox.id:
            del self._running[user_id]
        event = self._changed.pop(sandbox.id, None)
        if event is not None:
            event.set()

    async def gone(self, sandbox: Sandbox) -> bool:
        """Whether this very incarnation has ended, after the reconciler has had a look."""
        self.suspect(sandbox)
        row = await self._rows.get(sandbox.id)
        return row is None or not row.live or row.desired == "destroyed"

    async def over(self, sandbox: Sandbox) -> None:
        """Wait until this incarnation has ended. A dead container sends no end of its connections:
        its network is gone with it.
        """
        while True:
            event = self._changed.setdefault(sandbox.id, asyncio.Event())
            if self._running.get(sandbox.owner) != sandbox:
                row = await self._rows.get(sandbox.id)
                if row is None or not row.live:
                    return
            await event.wait()

    async def why_over(self, sandbox: Sandbox) -> str:
        """Why this incarnation has ended, "" if somebody wanted it to or if it is not known yet."""
        row = await self._rows.get(sandbox.id)
        return row.reason if row is not None and not row.live else ""

    async def _until_over(self, sandbox: Sandbox) -> Sandbox:
        while sandbox.live:
            sandbox = await self._next(sandbox)
        return sandbox

    async def _next(self, sandbox: Sandbox) -> Sandbox:
        """The row after its next change. The event is made before the row is read again, so that
        a change between the two is not missed.
        """
        event = self._changed.setdefault(sandbox.id, asyncio.Event())
        self._wake(sandbox.id)
        row = await self._rows.get(sandbox.id)
        if row is not None and row.observed == sandbox.observed:
            await event.wait()
            row = await self._rows.get(sandbox.id)
        if row is None:
            raise _gone()
        return row


def _gone() -> NotFound:
    return NotFound("The user and their container are gone.")
