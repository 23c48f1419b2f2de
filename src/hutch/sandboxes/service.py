"""What the rest of Hutch asks of sandboxes: give this user theirs, end it, tell how it is.

Asking writes ``desired`` and wakes the reconciler; only the reconciler touches the backend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from hutch.backends.base import Backend, Stats
from hutch.clock import Clock
from hutch.errors import NotFound, SandboxFailed, Unavailable
from hutch.ids import new_id
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.reconcile import Egress
from hutch.sandboxes.rows import SandboxRows
from hutch.sandboxes.runtime_client import RuntimeClient, RuntimeRefused, RuntimeUnreachable
from hutch_runtime.protocol import PROVIDERS, Provider

# A cold container under gVisor takes two to four seconds, more when twenty start at once.
READY_WITHIN_S: Final = 90
_AGENTS_MAX: Final = 100
_ADMIT_RETRY_S: Final = 0.2


class Sandboxes:
    def __init__(
        self,
        rows: SandboxRows,
        backend: Backend,
        runtime: RuntimeClient,
        clock: Clock,
        *,
        image: str,
        wake: Callable[[str], None],
        egress: Egress,
    ) -> None:
        self._rows = rows
        self._backend = backend
        self._runtime = runtime
        self._clock = clock
        self._image = image
        self._wake = wake
        self._egress = egress
        self._running: dict[str, Sandbox] = {}  # by user: what a prompt needs, without a query
        self._changed: dict[str, asyncio.Event] = {}
        self._claims: dict[str, asyncio.Task[Sandbox | None]] = {}  # by user, under way
        self._waiting = 0
        self._asked_at = 0.0  # when somebody last waited for one; 0: never

    async def ensure(self, user_id: str) -> Sandbox:
        """The user's running sandbox, made if there is none. Raises ``SandboxFailed``."""
        ready = self._running.get(user_id)
        if ready is not None:
            return ready
        self._waiting += 1
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                return await self._claimed(user_id) or await self._make(user_id)
        except TimeoutError:
            raise SandboxFailed(
                f"The sandbox was not ready within {READY_WITHIN_S} seconds.",
                hint="The machine may be overloaded; try again. `hutch doctor` looks for causes.",
            ) from None
        finally:
            self._waiting -= 1
            self._asked_at = self._clock.now()

    async def close(self) -> None:
        """Give up claims under way; their rows decide what the next start finds."""
        claims = list(self._claims.values())
        for claim in claims:
            claim.cancel()
        await asyncio.gather(*claims, return_exceptions=True)

    def demand(self) -> tuple[int, float]:
        """How many wait for a sandbox now, and when somebody last did (Unix time; 0: never)."""
        return self._waiting, self._asked_at

    async def _claimed(self, user_id: str) -> Sandbox | None:
        """A warm one, made the user's; None if there is none, or if they have one already.

        One claim of a user at a time, carried through when its caller is cancelled: nobody may use
        the sandbox before the gateway knows whose it is.
        """
        if user_id not in self._claims:
            if await self._rows.live_of(user_id) is not None and user_id not in self._claims:
                return None
            if user_id not in self._claims:
                claim = asyncio.create_task(self._claim(user_id), name=f"claim {user_id}")
                self._claims[user_id] = claim
        return await asyncio.shield(self._claims[user_id])

    async def _claim(self, user_id: str) -> Sandbox | None:
        try:
            while sandbox := await self._rows.claim(user_id, at=self._clock.now()):
                if await self._answers(sandbox):
                    async with asyncio.timeout(READY_WITHIN_S):
                        await self._let_out(sandbox)
                    row = await self._rows.get(sandbox.id)
                    if row is not None and row.observed == row.desired == "running":
                        self._running[user_id] = row
                        self._wake(row.id)  # who else is told of changes hears of its user
                        return row
                    await self._egress.dismiss(sandbox)  # it ended while it was let out
                if await self._rows.get(sandbox.id) is not None:
                    await self._rows.want(sandbox.id, "destroyed")
                    await self._until_over(sandbox)
            return None
        finally:
            del self._claims[user_id]

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

    async def _make(self, user_id: str) -> Sandbox:
        sandbox = await self._rows.live_of(user_id)
        while sandbox is None:
            now = self._clock.now()
            fresh = Sandbox(
                id=new_id("sbx"),
                user_id=user_id,
                incarnation=new_id("inc"),
                desired="running",
                observed="provisioning",
                reason="",
                image=self._image,
                created_at=now,
                changed_at=now,
            )
            sandbox = fresh if await self._rows.add(fresh) else await self._rows.live_of(user_id)
        if sandbox.desired == "destroyed":
            await self._until_over(sandbox)
            return await self._make(user_id)
        while sandbox.observed == "provisioning":
            sandbox = await self._next(sandbox)
        if sandbox.observed != "running":
            raise SandboxFailed(
                f"The sandbox could not be made: {sandbox.reason or 'it was destroyed meanwhile'}",
                hint="Try again; `hutch doctor` on the server looks for the cause.",
            )
        return sandbox

    async def destroy(self, user_id: str) -> Sandbox:
        """End the user's sandbox and all in it; returns once it is gone. Raises ``NotFound``."""
        if user_id in self._claims:
            await asyncio.wait({self._claims[user_id]})
        sandbox = await self.of(user_id)
        self._running.pop(user_id, None)
        await self._rows.want(sandbox.id, "destroyed")
        return await self._until_over(sandbox)

    async def of(self, user_id: str) -> Sandbox:
        """The user's live sandbox. Raises ``NotFound``."""
        sandbox = await self._rows.live_of(user_id)
        if sandbox is None:
            raise NotFound("There is no container.", hint="The next run makes one.")
        return sandbox

    async def all(self) -> list[Sandbox]:
        return await self._rows.live()

    async def stats(self, sandbox: Sandbox) -> Stats | None:
        if sandbox.handle is None or sandbox.observed not in {"warm", "running"}:
            return None
        return await self._backend.stats(sandbox.handle)

    async def agents(self, sandbox: Sandbox) -> list[tuple[Provider, str]]:
        """Provider and state of each agent inside; none if the runtime does not answer."""
        if sandbox.observed != "running":
            return []
        try:
            said = (await self._runtime.health(sandbox)).get("agents")
        except (RuntimeUnreachable, RuntimeRefused):
            return []
        return [
            (agent["provider"], str(agent.get("state"))[:32])
            for agent in (said if isinstance(said, list) else [])[:_AGENTS_MAX]
            if isinstance(agent, dict) and agent.get("provider") in PROVIDERS
        ]

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
        if row is None:  # the user was deleted
            raise NotFound("The user and their container are gone.")
        return row
