"""Runs: one prompt each, carried out by an agent of the pool and written into a journal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hutch_runtime.agents import Lease, Pool
from hutch_runtime.approvals import Approvals, Decided, Question, Verdict
from hutch_runtime.attachments import place
from hutch_runtime.changes import Look, look, told
from hutch_runtime.home import Home
from hutch_runtime.journal import Journal
from hutch_runtime.protocol import (
    CAN_FORK,
    MIB,
    Attachment,
    Decision,
    ErrorCode,
    EventType,
    Options,
    Provider,
    RequestCode,
    unsupported,
)
from hutch_runtime.providers.base import (
    PLAIN,
    AgentDied,
    AgentStartFailed,
    Outcome,
    Prompt,
    RunError,
    SessionNotFound,
)

_log = logging.getLogger(__name__)

RUNS_AT_ONCE_MAX: Final = 4
CANCEL_GRACE_S: Final = 5.0  # then the agent is killed
KEPT_RUNS: Final = 64
KEPT_BYTES: Final = 16 * MIB
# Runs whose events are gone, so that a late repetition of their id does not run them again.
KEPT_IDS: Final = 4096
MESSAGE_MAX_CHARS: Final = 2000
SHUTTING_DOWN: Final = "The sandbox is shutting down."


class Refused(Exception):
    """The request can't be served; nothing was run."""

    def __init__(self, code: ErrorCode | RequestCode, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Request:
    run_id: str
    provider: Provider
    prompt: str
    model: str | None = None
    session: str | None = None
    options: Options = PLAIN
    attachments: tuple[Attachment, ...] = ()


@dataclass(slots=True)
class Run:
    """One prompt. Also the ``Turn`` that a provider emits into."""

    request: Request
    journal: Journal
    started: float = field(default_factory=time.monotonic)
    first_event: float | None = None
    session: str | None = None
    lease: Lease | None = None
    cancelling: asyncio.Event = field(default_factory=asyncio.Event)
    approvals: Approvals = field(init=False)
    before: Look | None = None  # the workspace, where the run asks what it changes

    def __post_init__(self) -> None:
        limit = self.request.options.approval_timeout_s
        self.approvals = Approvals(self.journal.append, timeout_s=limit)

    async def ask(self, question: Question) -> Verdict:
        return (await self.approvals.ask(question)).verdict

    def emit(self, event_type: EventType, /, **fields: Any) -> None:
        if self.first_event is None and event_type != "retrying":
            self.first_event = time.monotonic()
        self.journal.append(event_type, **fields)

    def finish(self, outcome: Outcome) -> None:
        error = outcome.error
        if error is not None:
            message = error.message[:MESSAGE_MAX_CHARS]
            described: dict[str, str] | None = {"code": error.code, "message": message}
        else:
            described = None
        self.journal.append(
            "run.finished",
            stop_reason=outcome.stop_reason,
            error=described,
            text=outcome.text,
            timings={
                "first_event_ms": self._since_start(self.first_event),
                "total_ms": self._since_start(time.monotonic()),
            },
        )

    def _since_start(self, moment: float | None) -> float | None:
        return None if moment is None else round((moment - self.started) * 1000, 2)


class Runs:
    """All runs of this sandbox that still have their events."""

    def __init__(
        self,
        pool: Pool,
        versions: Mapping[str, str],
        *,
        workspace: Home,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._pool = pool
        self._workspace = workspace
        self._versions = versions
        self._wall_clock = wall_clock
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._forgotten: OrderedDict[str, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, request: Request) -> Run:
        """Start the run; one that has this id already is returned as it is. Raises ``Refused``."""
        if (known := self._runs.get(request.run_id)) is not None:
            return known
        if request.run_id in self._forgotten:
            raise Refused("run_not_found", "This run is over, and its events are no longer kept.")
        active = [run for run in self._runs.values() if not run.journal.finished]
        if request.session is not None and any(
            run.request.provider == request.provider and run.session == request.session
            for run in active
        ):
            raise Refused(
                "session_busy",
                "Another run of this session has not finished.",
                "Wait for it, cancel it, or start a new session.",
            )
        if len(active) >= RUNS_AT_ONCE_MAX:
            raise Refused(
                "too_many_runs",
                f"{RUNS_AT_ONCE_MAX} runs are in progress in this sandbox.",
                "Try again when one of them has finished.",
            )
        problem = unsupported(
            request.provider, request.options, new_session=request.session is None
        )
        if problem is not None:
            raise Refused("not_supported", f"{request.provider} does not know {problem[0]}.")
        journal = Journal(request.run_id, clock=self._wall_clock)
        run = Run(request, journal, session=request.session)
        self._runs[request.run_id] = run
        task = asyncio.get_running_loop().create_task(self._carry_out(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    def get(self, run_id: str) -> Run:
        """Raises ``Refused``."""
        run = self._runs.get(run_id)
        if run is None:
            raise Refused("run_not_found", "There is no run of this id in this sandbox.")
        return run

    def cancel(self, run_id: str) -> Run:
        """Ask for its end; does nothing to a run that is over. Raises ``Refused``."""
        run = self.get(run_id)
        run.cancelling.set()
        return run

    def decide(self, run_id: str, approval_id: str, decision: Decision) -> Decided:
        """What was decided, by this or before it. Raises ``Refused``."""
        decided = self.get(run_id).approvals.decide(approval_id, decision)
        if decided is None:
            raise Refused("run_not_found", "This run has asked for no approval of this id.")
        return decided

    async def fork(self, provider: Provider, session: str) -> str:
        """Raises ``Refused``."""
        if provider not in CAN_FORK:
            raise Refused("not_supported", f"{provider} cannot fork a session.")
        if any(
            run.request.provider == provider and run.session == session
            for run in self._runs.values()
            if not run.journal.finished
        ):
            raise Refused("session_busy", "A run of this session has not finished.")
        try:
            return await self._pool.fork(provider, session)
        except SessionNotFound:
            raise Refused("session_not_found", "The CLI does not know this session.") from None
        except AgentStartFailed as error:
            raise Refused("agent_start_failed", str(error)) from None

    @property
    def active(self) -> int:
        return sum(not run.journal.finished for run in self._runs.values())

    def report(self) -> list[dict[str, Any]]:
        return [
            {
                "run_id": run_id,
                "provider": run.request.provider,
                "session": run.session,
                "finished": run.journal.finished,
                "last_seq": len(run.journal),
            }
            for run_id, run in self._runs.items()
        ]

    async def close(self) -> None:
        """End every run that is in progress, so that their followers end as well."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for run in self._runs.values():  # one that was cancelled before its first step
            if not run.journal.finished:
                run.finish(_failed("agent_died", SHUTTING_DOWN))

    async def _carry_out(self, run: Run) -> None:
        outcome = _failed("runtime_error", "The run was ended by the runtime.")
        usable = False
        try:
            outcome, usable = await self._turn(run)
        except SessionNotFound:
            outcome = _failed("session_not_found", "The CLI does not know this session any more.")
        except AgentStartFailed as error:
            outcome = _failed("agent_start_failed", str(error))
        except AgentDied as error:
            outcome = _failed("agent_died", f"The CLI process ended in the middle: {error}")
        except asyncio.CancelledError:
            outcome = _failed("agent_died", SHUTTING_DOWN)
            raise
        except Exception:  # noqa: BLE001 - a run never ends in silence, whatever the bug
            # Not the traceback: its last line may quote what the agent said.
            _log.error("a bug in a %s run", run.request.provider)
            outcome = _failed("runtime_error", "A bug in the runtime ended this run.")
        finally:
            await self._tell_changes(run)
            run.finish(outcome)
            if run.lease is not None:
                await self._pool.put_back(run.request.provider, run.lease, usable=usable)
            self._forget()

    async def _turn(self, run: Run) -> tuple[Outcome, bool]:
        """How the turn ended, and whether its agent can be used again."""
        request = run.request
        try:
            placed = place(self._workspace, request.run_id, request.attachments)
        except OSError as error:
            said = f"The attachments could not be written: {error.strerror}"
            return Outcome("error", RunError("runtime_error", said)), True
        lease = await self._pool.take(request.provider, request.session, request.options)
        run.lease, run.session = lease, lease.agent.session
        run.journal.append(
            "run.started",
            provider=request.provider,
            session=run.session,
            model=request.model,
            cli_version=self._versions[request.provider],
            agent=lease.origin,
        )
        if lease.restarted is not None:
            how = lease.agent.resumed or "resumed"
            run.journal.append("agent.restarted", reason=lease.restarted, how=how)
        if request.options.diff:
            run.before = await asyncio.to_thread(look, self._workspace)
        if run.cancelling.is_set():  # before anything was asked of the model
            return Outcome("cancelled"), True
        ask = run.ask if request.options.asks else None
        prompt = Prompt(request.prompt, request.model, request.options, placed, ask)
        turn = asyncio.ensure_future(lease.agent.prompt(prompt, run))
        cancelling = asyncio.ensure_future(run.cancelling.wait())
        try:
            await asyncio.wait({turn, cancelling}, return_when=asyncio.FIRST_COMPLETED)
            if not turn.done():
                await lease.agent.cancel()
                run.approvals.close()  # behind it: an answer alone would send the agent on
                await asyncio.wait({turn}, timeout=CANCEL_GRACE_S)
            if turn.done():
                return _checked(turn.result(), request.options), True
            return Outcome("cancelled"), False
        finally:
            run.approvals.close()
            for task in (turn, cancelling):
                task.cancel()
            await asyncio.gather(turn, cancelling, return_exceptions=True)

    async def _tell_changes(self, run: Run) -> None:
        if run.before is None:
            return
        with contextlib.suppress(asyncio.CancelledError):  # on the way down it is not told
            after = await asyncio.to_thread(look, self._workspace, run.before)
            fields = await asyncio.to_thread(told, run.before, after)
            run.journal.append("files.changed", **fields)
        run.before = None  # megabytes

    def _forget(self) -> None:
        """Drop the oldest finished runs past the limits."""
        finished = [run for run in self._runs.values() if run.journal.finished]
        size = sum(run.journal.size for run in finished)
        while len(finished) > KEPT_RUNS or (size > KEPT_BYTES and len(finished) > 1):
            run = finished.pop(0)
            size -= run.journal.size
            del self._runs[run.request.run_id]
            self._forgotten[run.request.run_id] = None
        while len(self._forgotten) > KEPT_IDS:
            self._forgotten.popitem(last=False)


def _checked(outcome: Outcome, options: Options) -> Outcome:
    """Where the answer was to be JSON, it is."""
    if options.output_schema is None or outcome.stop_reason != "end_turn":
        return outcome
    try:
        json.loads(outcome.text)
    except (ValueError, RecursionError):
        error = RunError("output_invalid", "The model gave no answer that fits output_schema.")
        return Outcome("error", error, outcome.text)
    return outcome


def _failed(code: ErrorCode, message: str) -> Outcome:
    return Outcome("error", RunError(code, message))
