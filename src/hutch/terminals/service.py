"""A user's terminals: opened, looked at, come back to, ended.

A terminal lives in the container's runtime, and outlives a process of ours. Here each has a keeper
for as long as it lives, attached or not, which keeps the container awake for it and sees its end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import structlog

from hutch.accounts.agreements import Agreements
from hutch.clock import Clock
from hutch.errors import (
    Forbidden,
    HutchError,
    NeedsLogin,
    NotFound,
    NotSupported,
    SandboxFailed,
    TooManyUses,
    Unavailable,
)
from hutch.exits.service import Exits
from hutch.ids import is_id, new_id
from hutch.logins.service import Logins
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.runtime_client import RuntimeClient, RuntimeRefused, RuntimeUnreachable
from hutch.sandboxes.service import Sandboxes
from hutch.sandboxes.uses import Use, Uses
from hutch.terminals.connection import Connection
from hutch.terminals.models import NewTerminal, Output, Terminal
from hutch_runtime.protocol import LOGIN_FILES

_log = structlog.get_logger()

USE: Final = "terminals"
ENDED: Final = "ended terminals"
ENDED_KEPT_S: Final = 60.0  # as the runtime
ENDED_MAX: Final = 1000
LOOK_EVERY_S: Final = 10.0  # whether one with nobody there still lives
# A runtime that does not end what is over is not believed for longer.
GRACE_S: Final = 60.0
_RECOVERED_MAX: Final = 16


@dataclass(slots=True)
class _Kept:
    terminal: Terminal
    use: Use
    stack: AsyncExitStack  # what keeps its container awake
    since: float  # when somebody came or went
    over: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0
    keeper: asyncio.Task[None] | None = None


class Terminals:
    def __init__(
        self,
        sandboxes: Sandboxes,
        uses: Uses,
        runtime: RuntimeClient,
        clock: Clock,
        *,
        agreements: Agreements,
        logins: Logins,
        exits: Exits,
        most: int,
        idle_s: float,
        detached_s: float,
    ) -> None:
        """``most`` of a user at once; 0: they have none."""
        self._sandboxes = sandboxes
        self._uses = uses
        self._runtime = runtime
        self._clock = clock
        self._agreements = agreements
        self._logins = logins
        self._exits = exits
        self._most = most
        self._idle_s = idle_s
        self._detached_s = detached_s
        self._kept: dict[str, _Kept] = {}
        # By id: for whoever was cut off before they heard of the end.
        self._ended: OrderedDict[str, _Kept] = OrderedDict()
        self._recovering: dict[str, asyncio.Task[None]] = {}  # by user
        self._going_down = asyncio.Event()

    @property
    def going_down(self) -> bool:
        return self._going_down.is_set()

    async def recover(self) -> None:
        """Find the terminals of an earlier process; whoever asks for theirs waits for that."""
        for sandbox in await self._sandboxes.all() if self._most else ():
            if sandbox.user_id is not None and sandbox.observed == sandbox.desired == "running":
                task = asyncio.create_task(self._recover(sandbox, sandbox.user_id))
                self._recovering[sandbox.user_id] = task
                task.add_done_callback(partial(self._recovered, sandbox.user_id))

    async def close(self) -> None:
        """Let go of all; they live on in their containers, and ``recover`` finds them."""
        self._going_down.set()
        keepers = [kept.keeper for kept in self._kept.values() if kept.keeper is not None]
        tasks = [*keepers, *self._recovering.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def open(self, user_id: str, new: NewTerminal) -> Terminal:
        """Raises ``InvalidRequest``, ``Forbidden``, ``AgreementRequired``, ``ExitUnavailable``,
        ``TooManyUses``, ``NotSupported``, ``SandboxFailed``, ``Unavailable``.
        """
        if not self._most:
            raise Forbidden(
                "Terminals are switched off here.", hint="The operator can set HUTCH_TERMINALS."
            )
        new.check()
        await self._settled(user_id)
        await self._agreements.require(user_id)
        await self._exits.for_run(user_id)
        terminal_id = new_id("term")
        terminal = Terminal(
            terminal_id, user_id, new.command, new.tty, attached=False, created_at=self._clock.now()
        )
        async with AsyncExitStack() as stack:
            use = await stack.enter_async_context(self._uses.of(user_id, USE, most=self._most))
            for provider in LOGIN_FILES:
                # Whoever has to sign in again can do so in the terminal.
                with contextlib.suppress(NeedsLogin):
                    await use.unless_over(self._logins.ready(use.sandbox, provider))
            body = {
                "terminal_id": terminal_id,
                "command": list(new.command) if new.command is not None else None,
                "tty": new.tty,
                "rows": new.rows,
                "columns": new.columns,
                "term": new.term,
                "idle_s": self._idle_s,
                "detached_s": self._detached_s,
            }
            await _asking(
                use.unless_over(self._runtime.call(use.sandbox, "POST", "/terminals", body=body))
            )
            self._keep(terminal, use, stack.pop_all())
        return terminal

    async def of(self, user_id: str) -> list[Terminal]:
        """The oldest first."""
        await self._settled(user_id)
        found = [kept for kept in self._kept.values() if kept.terminal.user_id == user_id]
        return [
            replace(kept.terminal, attached=kept.connections > 0)
            for kept in sorted(found, key=lambda kept: kept.terminal.created_at)
        ]

    async def end(self, user_id: str, terminal_id: str) -> None:
        """Raises ``NotFound``, ``SandboxFailed``."""
        kept = await self._of(user_id, terminal_id)
        path = f"/terminals/{terminal_id}"
        with contextlib.suppress(NotFound):  # it ended by itself
            await _asking(
                kept.use.unless_over(self._runtime.call(kept.use.sandbox, "DELETE", path))
            )
        kept.over.set()
        if kept.keeper is not None:
            await asyncio.wait({kept.keeper})

    @asynccontextmanager
    async def attach(
        self, user_id: str, terminal_id: str, *, after: int
    ) -> AsyncIterator[tuple[Connection, AsyncIterator[Output]]]:
        """Takes over from whoever is there. The output begins with what is said of its place
        (``ready``) and ends with ``exit`` or ``replaced``. Raises ``NotFound``, ``SandboxFailed``,
        also while it is read; ``Unavailable`` when this process ends.
        """
        async with AsyncExitStack() as stack:
            kept = await self._just_ended(user_id, terminal_id, stack)
            kept = kept or await self._of(user_id, terminal_id)
            connection = Connection()
            kept.connections += 1
            kept.since = self._clock.now()
            try:
                async with aclosing(self._output(kept, connection, after)) as outputs:
                    yield connection, outputs
            finally:
                kept.connections -= 1
                kept.since = self._clock.now()

    async def _output(
        self, kept: _Kept, connection: Connection, after: int
    ) -> AsyncGenerator[Output, None]:
        path = f"/terminals/{kept.terminal.id}/attach?after={after}"
        down = asyncio.create_task(self._going_down.wait())
        try:
            exchange = self._runtime.exchange(kept.use.sandbox, path, connection.given())
            async with _asked(exchange) as pieces, aclosing(connection.read(pieces)) as outputs:
                while True:
                    output = await self._next(kept, outputs, down)
                    if output is None:
                        return
                    ended = output.said is not None and output.said["type"] == "exit"
                    if ended:
                        kept.over.set()
                    yield output
                    if ended:
                        return
        finally:
            down.cancel()
            await asyncio.gather(down, return_exceptions=True)

    async def _next(
        self, kept: _Kept, outputs: AsyncIterator[Output], down: asyncio.Task[Any]
    ) -> Output | None:
        """None at the end. A runtime that is cut off says nothing of it."""
        reading = asyncio.ensure_future(anext(outputs, None))
        try:
            await kept.use.unless_over(_first_of(reading, down))
            if down.done():
                raise Unavailable("The service is going down; the terminal lives on.")
            return reading.result()
        except RuntimeUnreachable as error:
            raise SandboxFailed("The container does not answer.", hint="Connect again.") from error
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _of(self, user_id: str, terminal_id: str) -> _Kept:
        await self._settled(user_id)
        kept = self._kept.get(terminal_id)
        if kept is None or kept.terminal.user_id != user_id:
            raise NotFound(
                "There is no such terminal; it may have ended, or its container was put away.",
                hint="GET /v1/terminals lists yours.",
            )
        return kept

    async def _just_ended(
        self, user_id: str, terminal_id: str, stack: AsyncExitStack
    ) -> _Kept | None:
        """One whose container's runtime still has its last words; ``stack`` keeps that awake."""
        kept = self._ended.get(terminal_id)
        if kept is None or kept.terminal.user_id != user_id:
            return None
        if self._clock.now() - kept.since > ENDED_KEPT_S:
            return None
        if await self._sandboxes.same(user_id, kept.use.sandbox.incarnation) is None:
            return None
        use = await stack.enter_async_context(self._uses.of(user_id, ENDED, most=self._most))
        return replace(kept, use=use)

    def _recovered(self, user_id: str, _: asyncio.Task[None]) -> None:
        del self._recovering[user_id]

    async def _settled(self, user_id: str) -> None:
        if (recovering := self._recovering.get(user_id)) is not None:
            await asyncio.wait({recovering})

    def _keep(self, terminal: Terminal, use: Use, stack: AsyncExitStack) -> None:
        kept = _Kept(terminal, use, stack, self._clock.now())
        self._kept[terminal.id] = kept
        kept.keeper = asyncio.create_task(self._see_to(kept), name=f"keep {terminal.id}")

    async def _see_to(self, kept: _Kept) -> None:
        """Until it is over, or nobody has come back to it for long enough."""
        try:
            async with kept.stack:
                with contextlib.suppress(SandboxFailed):
                    await kept.use.unless_over(self._until_over(kept))
        except Exception:  # noqa: BLE001  one terminal's trouble; it is logged
            _log.exception("terminal.failed", terminal=kept.terminal.id)
        finally:
            del self._kept[kept.terminal.id]
            self._ended[kept.terminal.id] = kept
            kept.since = self._clock.now()
            while len(self._ended) > ENDED_MAX:
                self._ended.popitem(last=False)

    async def _until_over(self, kept: _Kept) -> None:
        while not kept.over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await kept.over.wait()
            if kept.connections or kept.over.is_set():
                continue
            with contextlib.suppress(RuntimeUnreachable, RuntimeRefused):
                living = await self._living(kept.use.sandbox)
                if kept.terminal.id not in living and not kept.connections:
                    return
            if self._clock.now() - kept.since > self._detached_s + GRACE_S:
                with contextlib.suppress(RuntimeUnreachable, RuntimeRefused):
                    path = f"/terminals/{kept.terminal.id}"
                    await self._runtime.call(kept.use.sandbox, "DELETE", path)
                return

    async def _living(self, sandbox: Sandbox) -> dict[str, dict[str, Any]]:
        """By id; what it says of each is not to be trusted."""
        said = (await self._runtime.call(sandbox, "GET", "/terminals")).get("terminals")
        return {
            str(one["terminal_id"]): one
            for one in (said if isinstance(said, list) else [])[:_RECOVERED_MAX]
            if isinstance(one, dict) and is_id(str(one.get("terminal_id")), "term")
        }

    async def _recover(self, sandbox: Sandbox, user_id: str) -> None:
        try:
            for terminal_id, said in (await self._living(sandbox)).items():
                command, created_at = said.get("command"), said.get("created_at")
                terminal = Terminal(
                    terminal_id,
                    user_id,
                    _told(command),
                    said.get("tty") is not False,
                    attached=False,
                    created_at=float(created_at)
                    if isinstance(created_at, int | float) and 0 <= created_at < 2**40
                    else self._clock.now(),
                )
                async with AsyncExitStack() as stack:
                    use = await stack.enter_async_context(
                        self._uses.of(user_id, USE, most=self._most)
                    )
                    if use.sandbox.incarnation != sandbox.incarnation:
                        return
                    self._keep(terminal, use, stack.pop_all())
        except (RuntimeUnreachable, RuntimeRefused, HutchError) as error:
            _log.info("terminals.not_recovered", sandbox=sandbox.id, reason=type(error).__name__)


async def _first_of(*tasks: asyncio.Future[Any]) -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def _asking(waiting: Awaitable[Any]) -> Any:
    """Its result, with a runtime's refusals as errors for users."""
    try:
        return await waiting
    except RuntimeRefused as refused:
        raise _refusal(refused) from None
    except RuntimeUnreachable as error:
        raise SandboxFailed("The container does not answer.", hint="Try again.") from error


@asynccontextmanager
async def _asked(
    exchange: contextlib.AbstractAsyncContextManager[AsyncIterator[bytes]],
) -> AsyncIterator[AsyncIterator[bytes]]:
    async with AsyncExitStack() as stack:
        yield await _asking(stack.enter_async_context(exchange))


def _refusal(refused: RuntimeRefused) -> HutchError:
    if refused.code == "terminal_not_found":
        return NotFound("The terminal has ended.", hint="GET /v1/terminals lists yours.")
    if refused.code == "too_many_terminals":
        return TooManyUses("There are too many terminals in the container.", hint="End one.")
    if refused.status == 404 and not refused.code:
        return NotSupported(
            "The container's image is older than terminals.",
            hint="DELETE /v1/container ends it with everything in it; the next one is newer.",
        )
    return SandboxFailed(f"The terminal could not be opened: {refused.message}")


def _told(command: object) -> tuple[str, ...] | None:
    """As the sandbox tells it: shown to its own user, and bounded."""
    if not isinstance(command, list) or not all(isinstance(part, str) for part in command):
        return None
    return tuple(part.encode("utf-8", "replace").decode()[:1000] for part in command[:256])
