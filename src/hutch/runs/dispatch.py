"""Carry one run through: get the sandbox, send the prompt, read its events, store how it ended.

Exactly once: the runtime knows a run by its id and never starts one twice, so asking again after a
broken connection or a restart of ours is always right. A run ends in one transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any, Final, TypeVar

import structlog

from hutch.clock import Clock
from hutch.errors import HutchError, NeedsLogin, Unavailable
from hutch.exits.service import Exits
from hutch.gateway.base import Failure
from hutch.logins.service import Logins
from hutch.mcp_servers.service import McpServers
from hutch.runs.approvals import Ledger
from hutch.runs.inbound import Inbound, parse_event
from hutch.runs.log import RunLog
from hutch.runs.models import Run, RunState, Session, Standing
from hutch.runs.rows import RunRows
from hutch.sandboxes.intake import Intake
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.runtime_client import RuntimeClient, RuntimeRefused, RuntimeUnreachable
from hutch.sandboxes.service import Sandboxes
from hutch_runtime.protocol import MIB, RUN_MAX_BYTES, Decision, ProtocolError, StopReason

_log = structlog.get_logger()
_T = TypeVar("_T")

# Followers see what is stored: the first words at once, later ones in steps that a reader does not
# notice, and that leave the database (a millisecond of a core a time) to others.
_STORE_FIRST_S: Final = 0.005
_STORE_MAX_S: Final = 0.1
_STORE_AGAIN_S: Final = 1.0  # after the database could not
_LAST_WORDS_S: Final = 1.0  # to end a container takes a tenth of it
_UNREACHABLE_S: Final = 15.0  # a sandbox that is alive but silent for so long is given up
_RETRY_S: Final = 0.1
_CANCEL_S: Final = 15.0  # the runtime kills an agent that does not end its turn within 5
# The runtime bounds a run's output itself; this is for one that does not.
_BYTES_MAX: Final = RUN_MAX_BYTES + 4 * MIB
_DECISION_S: Final = 10.0  # in which a sandbox has to take one; a run that a restart took up, too


class _Ended(Exception):
    """The run is over for a reason of Hutch's own."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code)
        self.code = code
        self.message = message


class _CancelledEarly(Exception):
    """Somebody cancelled the run before it reached its sandbox."""


_LOST: Final = ("sandbox_lost", "The sandbox ended before the run did.")
_OUT_OF_TIME: Final = ("timeout", "The run took longer than its time limit (timeout_s).")


class Dispatch:
    """One run on its way. ``session`` is None when its row is to be read once its turn comes."""

    def __init__(
        self,
        run: Run,
        log: RunLog,
        session: Session | None,
        *,
        rows: RunRows,
        sandboxes: Sandboxes,
        runtime: RuntimeClient,
        logins: Logins,
        mcp_servers: McpServers,
        exits: Exits,
        clock: Clock,
    ) -> None:
        self.run = run
        self.log = log
        self._session = session
        self._rows = rows
        self._sandboxes = sandboxes
        self._runtime = runtime
        self._logins = logins
        self._mcp_servers = mcp_servers
        self._exits = exits
        self._clock = clock
        self.approvals = Ledger(run.id, log.entries)
        self._sandbox: Sandbox | None = None
        self._cancel = asyncio.Event()
        self._timed_out = False
        self._over_budget = False
        # Without limit until a cancel is asked for; then the sandbox has to end the turn soon.
        self._patience = asyncio.timeout(None)
        self._limited = True  # while that limit is in force
        self._bytes = 0
        self._intake = Intake()
        self._first_event_ms: float | None = None
        if run.cancel_requested:
            self._cancel.set()

    def cancel(self) -> None:
        self._cancel.set()

    async def decide(self, approval_id: str, decision: Decision) -> Decision:
        """Tell the sandbox, which takes the first one that it hears; what was decided. The run's
        log tells of it when the sandbox does. Raises ``Unavailable``.
        """
        try:
            async with asyncio.timeout(_DECISION_S):
                while True:
                    with contextlib.suppress(RuntimeUnreachable):
                        if self._sandbox is not None:
                            return await self._runtime.decide(
                                self._sandbox, self.run.id, approval_id, decision
                            )
                    await asyncio.sleep(_RETRY_S)
        except (TimeoutError, RuntimeRefused):
            raise Unavailable(
                "The container does not take the decision.",
                hint="Ask for the run: it may have ended. Deciding again does no harm.",
            ) from None

    def tell_queued(self, standing: Standing) -> None:
        """Why it waits, and where in the line, unless it has begun or ended by now."""
        if self.run.state == "queued":
            data = {"reason": standing.reason, "position": standing.position}
            self._append("queued", data, None)

    async def execute(self, *, granted: asyncio.Event, begun: Callable[[], None]) -> None:
        """``granted``: set when its turn comes; ``begun``: to be called once it has its sandbox."""
        watcher = asyncio.create_task(self._watch_for_the_end(), name=f"watch {self.run.id}")
        storing = asyncio.create_task(self._store_as_it_comes(), name=f"store {self.run.id}")
        try:
            async with self._patience:
                try:
                    if not granted.is_set():
                        await self._unless_cancelled(granted.wait())
                    with self._sandboxes.hold(self.run.user_id):
                        await self._carry_through(begun)
                finally:
                    self._limited = False
        except TimeoutError:
            await self._end_unheard()
        except _CancelledEarly:
            await self._end_unheard()
        except _Ended as ended:
            await self._end("error", code=ended.code, message=ended.message)
        except HutchError as error:
            await self._end("error", code=error.code, message=error.message)
        except ProtocolError as error:
            _log.warning("sandbox.nonsense", run=self.run.id, what=str(error))
            await self._tell_runtime_to_cancel()
            await self._end(
                "error", code="sandbox_misbehaved", message=f"The sandbox sent {error}."
            )
        finally:
            for task in (watcher, storing):
                task.cancel()
            await asyncio.gather(watcher, storing, return_exceptions=True)
            self.log.close()

    async def _carry_through(self, begun: Callable[[], None]) -> None:
        session = self._session or await self._rows.session(self.run.user_id, self.run.session_id)
        if session is None:
            raise _Ended("not_found", "The session was deleted.")
        if self.run.state != "running":
            exit_ = await self._unless_cancelled(self._exits.for_run(self.run.user_id))
            self.run = replace(self.run, exit_id=exit_.id if exit_ else None)
        sandbox, session = await self._find_sandbox(session)
        self._sandbox = sandbox
        if self.run.state != "running":
            self.run = replace(
                self.run,
                state="running",
                incarnation=sandbox.incarnation,
                started_at=self._clock.now(),
                timings={"sandbox_ms": self._elapsed_ms(), **self.run.timings},
            )
            # Before the sandbox hears of it: whoever takes this up after a crash must never give
            # to another sandbox what this one may have begun.
            await self._store()
        begun()
        silent_since: float | None = None
        while True:
            seen = len(self.log.entries)
            try:
                if await self._read(sandbox, session):
                    return
            except RuntimeRefused as refused:
                raise self._refusal(refused) from None
            except RuntimeUnreachable:
                pass
            # The stream ended too early. Read on where it stopped, unless the sandbox is gone.
            now = asyncio.get_running_loop().time()
            if silent_since is None or len(self.log.entries) > seen:
                silent_since = now
            if await self._sandboxes.gone(sandbox):
                raise await self._lost(sandbox)
            if now - silent_since > _UNREACHABLE_S:
                raise _Ended(
                    "sandbox_lost", f"The sandbox has not answered for {_UNREACHABLE_S:.0f} s."
                )
            await asyncio.sleep(_RETRY_S)

    async def _find_sandbox(self, session: Session) -> tuple[Sandbox, Session]:
        """Where the run belongs. A run that has begun lives in one incarnation; a session moves
        with its files, when its sandbox is put away and woken.
        """
        if self.run.state == "running" and self.run.incarnation is not None:
            begun_in = await self._sandboxes.same(self.run.user_id, self.run.incarnation)
            if begun_in is None:
                raise _Ended(*_LOST)
            return begun_in, session
        sandbox = await self._unless_cancelled(self._sandbox_with_login())
        if session.incarnation not in {None, sandbox.incarnation}:
            moved = await self._rows.session(self.run.user_id, self.run.session_id)
            if moved is None or moved.incarnation != sandbox.incarnation:
                raise _Ended(
                    "session_lost",
                    "The sandbox that held this session is gone, and the session with it. "
                    "Leave out session_id to start a new one.",
                )
            session = moved
        return sandbox, session

    async def _sandbox_with_login(self) -> Sandbox:
        sandbox = await self._sandboxes.ensure(self.run.user_id)
        try:
            await self._logins.ready(sandbox, self.run.provider)
        except NeedsLogin as error:
            raise _Ended("needs_login", error.message) from None
        await self._mcp_servers.ready(sandbox)
        return sandbox

    async def _unless_cancelled(self, waiting: Coroutine[Any, Any, _T]) -> _T:
        """The result of ``waiting``, or ``_CancelledEarly`` when a cancel comes first. A run that
        has begun is not given up like that: its sandbox is told, and has the last word.
        """
        if self.run.state == "running":
            return await waiting
        wish = asyncio.create_task(self._cancel.wait())
        work = asyncio.create_task(waiting)
        try:
            await asyncio.wait({wish, work}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise _CancelledEarly
            return work.result()
        finally:
            wish.cancel()
            work.cancel()

    async def _read(self, sandbox: Sandbox, session: Session) -> bool:
        """Take events until the last, which is True, or until the stream ends too early."""
        reading = asyncio.create_task(self._read_stream(sandbox, session))
        over = asyncio.create_task(self._sandboxes.over(sandbox))
        try:
            await asyncio.wait({reading, over}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise await self._lost(sandbox)
            return reading.result()
        finally:
            for task in (reading, over):
                task.cancel()
            await asyncio.gather(reading, over, return_exceptions=True)

    async def _lost(self, sandbox: Sandbox) -> _Ended:
        code, message = _LOST
        with contextlib.suppress(TimeoutError):  # the reason is known once its end is seen to
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._sandboxes.over(sandbox)
        reason = await self._sandboxes.why_over(sandbox)
        return _Ended(code, f"{message} {reason}".rstrip())

    async def _read_stream(self, sandbox: Sandbox, session: Session) -> bool:
        async with self._events(sandbox, session) as events:
            async for raw in events:
                if await self._take(parse_event(raw, run_id=self.run.id), len(raw)):
                    return True
                await self._intake.took()
        return False

    @contextlib.asynccontextmanager
    async def _events(
        self, sandbox: Sandbox, session: Session
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        after = self.log.runtime_seq
        if after:
            async with self._runtime.follow(sandbox, self.run.id, after=after) as events:
                yield events
        else:
            async with self._runtime.prompt(
                sandbox,
                run_id=self.run.id,
                provider=self.run.provider,
                prompt=self.run.prompt,
                model=self.run.model,
                session=session.provider_session,
                options=self.run.options,
                attachments=await self._rows.attachments(self.run.id)
                if self.run.attachments
                else (),
            ) as events:
                yield events

    async def _take(self, event: Inbound, size: int) -> bool:
        """Append the event; True if it was the last."""
        expected = self.log.runtime_seq + 1
        if event.seq < expected:
            return False  # a repeat after a reconnection
        if event.seq > expected:
            raise ProtocolError("an event out of order")
        self._bytes += size
        if self._bytes > _BYTES_MAX:
            raise ProtocolError("more output than a run may have")
        if self._first_event_ms is None and event.type != "run.started":
            self._first_event_ms = self._elapsed_ms()
        self.approvals.take(event.type, event.data, self._clock.now())
        match event.type:
            case "run.finished":
                await self._finish(event)
                return True
            case "run.started":
                self.run = replace(
                    self.run,
                    provider_session=event.data["session"],
                    cli_version=event.data["cli_version"],
                )
            case "usage":
                self.run = replace(self.run, usage=event.data)
                self._mind_the_cost(event.data["cost_usd"])
        self._append(event.type, event.data, event.seq)
        return False

    def _mind_the_cost(self, cost_usd: float | None) -> None:
        """The CLI minds it itself; this is for one that does not."""
        most = (self.run.options or {}).get("max_cost_usd")
        if most is not None and cost_usd is not None and cost_usd > most:
            self._over_budget = True
            self._cancel.set()

    async def _finish(self, event: Inbound) -> None:
        stop_reason: StopReason = event.data["stop_reason"]
        error = event.data["error"] or {}
        code, message = error.get("code"), error.get("message")
        if self._over_budget and stop_reason == "cancelled":
            stop_reason = "max_cost"
        elif self._timed_out and stop_reason == "cancelled":
            stop_reason, (code, message) = "error", _OUT_OF_TIME
        elif stop_reason == "error" and code is None:
            code, message = "provider_error", "The CLI ended the turn without saying why."
        elif stop_reason == "error" and (failure := await self._exit_failure()):
            code, message = failure.code, failure.message
        elif code == "provider_auth" and (needed := await self._refused(message or "")):
            code, message = needed.code, needed.message
        await self._end(
            stop_reason, code=code, message=message, text=event.data["text"], seq=event.seq
        )

    async def _exit_failure(self) -> Failure | None:
        """A CLI tells of an exit that failed in words of its own."""
        if self._sandbox is None:
            return None
        sandbox, since = self._sandbox, self.run.started_at or self.run.created_at
        return await self._exits.failure(sandbox.id, sandbox.incarnation, since)

    async def _refused(self, message: str) -> NeedsLogin | None:
        """A login that the provider refuses needs a new sign-in. A 403 is about what an account may
        do, and says nothing against the login.
        """
        if self._sandbox is None or "403" in message:
            return None
        return await self._logins.refused(self._sandbox, self.run.provider)

    async def _end_unheard(self) -> None:
        """Cancelled or out of time, with no word from the sandbox about it."""
        if self._over_budget:
            await self._end("max_cost")
        elif self._timed_out:
            await self._end("error", code=_OUT_OF_TIME[0], message=_OUT_OF_TIME[1])
        else:
            await self._end("cancelled")

    async def _end(
        self,
        stop_reason: StopReason,
        *,
        code: str | None = None,
        message: str | None = None,
        text: str = "",
        seq: int | None = None,
    ) -> None:
        """The last event and the outcome, stored together before anybody sees them. The first end
        is the one that counts: another may come while that is being stored.
        """
        if self.run.finished:
            self._allow(None)
            return await self._store()
        state: RunState = {"error": "failed", "cancelled": "cancelled"}.get(  # type: ignore[assignment]  # a mapping from literals to literals
            stop_reason, "succeeded"
        )
        total_ms = self._elapsed_ms()
        timings = {**self.run.timings, "total_ms": total_ms}
        if self._first_event_ms is not None:
            timings["first_event_ms"] = self._first_event_ms
        self.run = replace(
            self.run,
            state=state,
            stop_reason=stop_reason,
            error_code=code,
            error_message=message,
            text=text,
            timings=timings,
            exit_ip=self._exits.seen_ip(self.run.exit_id) if self.run.exit_id else None,
            finished_at=self._clock.now(),
        )
        finished = {
            "stop_reason": stop_reason,
            "error": {"code": code, "message": message} if code else None,
            "text": text,
            "timings": timings,
        }
        self._append("run.finished", finished, seq)
        self._allow(None)  # what follows must not be cut in the middle
        return await self._store()

    def _allow(self, seconds: float | None) -> None:
        if self._limited and not self._patience.expired():
            now = asyncio.get_running_loop().time()
            self._patience.reschedule(None if seconds is None else now + seconds)

    def _append(self, kind: str, data: dict[str, Any], seq: int | None) -> None:
        self.log.append(self.log.next(kind, data, time=self._clock.now(), runtime_seq=seq))

    async def _store_as_it_comes(self) -> None:
        now = asyncio.get_running_loop().time
        stored_at, pause = now() - _STORE_MAX_S, _STORE_FIRST_S
        while True:
            await self.log.fresh.wait()
            since = now() - stored_at
            if since >= _STORE_MAX_S:
                pause = _STORE_FIRST_S
            await asyncio.sleep(max(0.0, pause - since))
            await self._store()
            stored_at, pause = now(), min(pause * 2, _STORE_MAX_S)

    async def _store(self) -> None:
        """What the run has become, with the entries that are not stored yet. While the database
        cannot (its disk is full, its connection lost) the run is kept here, and it is tried again.
        """
        failing = False
        while True:
            try:
                async with self.log.storing() as entries:
                    await self._rows.save(self.run, entries)
                return
            except Unavailable as error:
                if not failing:
                    _log.warning("run.not_stored", run=self.run.id, code=error.code)
                failing = True
                await asyncio.sleep(_STORE_AGAIN_S)

    async def _watch_for_the_end(self) -> None:
        """Turn the time limit, or somebody's wish, into a cancel at the runtime."""
        left = self.run.created_at + self.run.timeout_s - self._clock.now()
        try:
            async with asyncio.timeout(max(0.0, left)):
                await self._cancel.wait()
        except TimeoutError:
            self._timed_out = True
            self._cancel.set()
        if self.run.finished:
            return
        self._allow(_CANCEL_S)
        await self._tell_runtime_to_cancel()

    async def _tell_runtime_to_cancel(self) -> None:
        """Until it has heard: the run may only just be starting there."""
        try:
            async with asyncio.timeout(_CANCEL_S):
                while True:
                    with contextlib.suppress(RuntimeUnreachable, RuntimeRefused):
                        if self._sandbox is not None:
                            await self._runtime.cancel(self._sandbox, self.run.id)
                            return
                    await asyncio.sleep(_RETRY_S)
        except TimeoutError:
            _log.warning("run.cancel_unheard", run=self.run.id)

    def _refusal(self, refused: RuntimeRefused) -> _Ended:
        if refused.code == "run_not_found":
            return _Ended("sandbox_lost", "The sandbox's runtime was restarted during the run.")
        if refused.status == 404 and not refused.code:
            return _Ended(
                "not_supported",
                "The container is of an older image, which knows no options, no attachments or no "
                "approvals. DELETE /v1/container, or wait until it is replaced.",
            )
        return _Ended(refused.code or "runtime_error", refused.message or "The runtime refused.")

    def _elapsed_ms(self) -> float:
        return round((self._clock.now() - self.run.created_at) * 1000, 2)
