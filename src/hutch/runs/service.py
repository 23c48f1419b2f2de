"""Accept runs, carry them through in the background, and let anybody entitled follow them.

A run goes on when its caller goes away; asking again with the same idempotency key finds it. Runs
of one session take turns in the order in which they came.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog
from sqlalchemy.exc import IntegrityError

from hutch.accounts.agreements import Agreements
from hutch.accounts.tiers import Limits
from hutch.clock import Clock
from hutch.errors import (
    ApprovalDecided,
    Conflict,
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    NotSupported,
    PromptTooLarge,
    QueueFull,
    SessionBusy,
    Unavailable,
)
from hutch.exits.service import Exits
from hutch.ids import is_id, new_id
from hutch.logins.service import Logins
from hutch.mcp_servers.service import McpServers
from hutch.runs.approvals import TYPES, Ledger
from hutch.runs.dispatch import Dispatch
from hutch.runs.log import RunLog
from hutch.runs.models import Approval, LogEntry, Run, Session, Standing
from hutch.runs.queue import RunQueue
from hutch.runs.rows import RunRows
from hutch.runs.sessions import Sessions, no_session
from hutch.sandboxes.runtime_client import RuntimeClient
from hutch.sandboxes.service import Sandboxes
from hutch.vault.models import Result
from hutch.vault.service import Vault
from hutch_runtime.protocol import (
    PROMPT_MAX_BYTES,
    PROVIDERS,
    SUPPORTED,
    Attachment,
    Decision,
    Options,
    PermissionMode,
    Provider,
    unsupported,
)

_log = structlog.get_logger()

PAGE_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class NewRun:
    """What a caller asks for."""

    provider: Provider
    prompt: str
    model: str | None = None
    session_id: str | None = None
    timeout_s: float | None = None
    idempotency_key: str | None = None
    begins: bool = False  # session_id is of a session that this run begins
    asked: str | None = None  # what the caller sent, where prompt and session were made of it
    options: Options = field(default_factory=Options)
    attachments: tuple[Attachment, ...] = ()

    def hash(self) -> str:
        """The same for the same request, to tell a repeat from a reused key."""
        if self.asked is not None:
            return hashlib.sha256(self.asked.encode()).hexdigest()
        parts: list[Any] = [
            self.provider,
            self.prompt,
            self.model,
            self.session_id,
            self.timeout_s,
        ]
        if self.options.given or self.attachments:
            parts.append(self.options.to_dict())
            parts += [
                [one.name, one.media_type, hashlib.sha256(one.content).hexdigest()]
                for one in self.attachments
            ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Runs:
    def __init__(
        self,
        rows: RunRows,
        sandboxes: Sandboxes,
        runtime: RuntimeClient,
        vault: Vault,
        clock: Clock,
        *,
        agreements: Agreements,
        logins: Logins,
        mcp_servers: McpServers,
        exits: Exits,
        queue: RunQueue,
        limits: Callable[[str], Awaitable[Limits]],
        timeout_s: float,
        timeout_max_s: float,
        permission_mode: PermissionMode,
    ) -> None:
        """``limits`` tells a user's, and raises ``NotFound``."""
        self._rows = rows
        self._sandboxes = sandboxes
        self._runtime = runtime
        self._vault = vault
        self._clock = clock
        self._agreements = agreements
        self._logins = logins
        self._mcp_servers = mcp_servers
        self._exits = exits
        self._queue = queue
        self.limits = limits
        self._timeout_s = timeout_s
        self._timeout_max_s = timeout_max_s
        self._permission_mode = permission_mode
        self.sessions = Sessions(rows, sandboxes, runtime, clock, busy=queue.session_busy)
        self._live: dict[str, Dispatch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def _complete(self, options: Options) -> Options:
        """With what the service asks for where a run says nothing."""
        if options.permission_mode is not None or self._permission_mode == "auto":
            return options
        return replace(options, permission_mode=self._permission_mode)

    async def recover(self) -> int:
        """Take up what an earlier process left unfinished; returns how many runs."""
        unfinished = await self._rows.unfinished()
        # Those that had begun are in their sandboxes; the others wait behind them.
        for run in sorted(unfinished, key=lambda run: run.state != "running"):
            dispatch = self._dispatch(run, None, await self._rows.events(run.id))
            limits = await self.limits(run.user_id)
            self._start(dispatch, self._queue.take_up(dispatch, limits))
        return len(unfinished)

    async def close(self) -> None:
        """Let go of live runs; they go on in their sandboxes, and ``recover`` finds them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def submit(self, user_id: str, new: NewRun) -> Run:
        """Accept a run. Raises ``InvalidRequest``, ``PromptTooLarge``, ``NotFound`` (session),
        ``NotSupported``, ``AgreementRequired``, ``CredentialMissing``, ``NeedsLogin``,
        ``IdempotencyMismatch``, ``SessionBusy``, ``QueueFull``.
        """
        _check_prompt(new.prompt)
        _check_support(new)
        timeout_s = new.timeout_s or self._timeout_s
        if not 0 < timeout_s <= self._timeout_max_s:
            raise InvalidRequest(
                f"timeout_s is above 0 and at most {self._timeout_max_s:.0f}.",
                hint="Leave it out for the default.",
            )
        known = await self.repeated(user_id, new)
        if known is not None:
            return known
        now = self._clock.now()
        session, fresh = await self._session_for(user_id, new, now)
        await self._agreements.require(user_id)
        await self._vault.require(user_id, new.provider)
        limits = await self.limits(user_id)
        run = Run(
            id=new_id("run"),
            user_id=user_id,
            session_id=session.id,
            provider=new.provider,
            model=new.model,
            prompt=new.prompt,
            timeout_s=timeout_s,
            state="queued",
            created_at=now,
            idempotency_key=new.idempotency_key,
            request_hash=new.hash(),
            options=self._complete(new.options).to_dict() or None,
            attachments=[
                {"name": one.name, "media_type": one.media_type, "bytes": len(one.content)}
                for one in new.attachments
            ]
            or None,
        )
        # The CLI's own id of a session never changes once it is known; until then the row has to be
        # read again when the run's turn comes.
        known_place = fresh or session.provider_session is not None
        # Live before it is stored: a twin finds the row the moment that it is there.
        dispatch = self._dispatch(run, session if known_place else None, [])
        try:
            self._queue.enter(dispatch, limits, has_container=self._sandboxes.ready(user_id))
        except QueueFull:
            del self._live[run.id]
            raise
        try:
            await self._rows.add(run, session if fresh else None, new.attachments)
        except BaseException as error:
            del self._live[run.id]
            self._queue.left(run.id, joined=False)
            if not isinstance(error, IntegrityError):
                raise
            # A twin with the same key was first, or the session was deleted.
            known = await self.repeated(user_id, new)
            if known is not None:
                return known
            if new.begins:
                raise SessionBusy(
                    "Another request has begun this session at the same moment.", hint="Repeat it."
                ) from None
            raise no_session() from None
        self._start(dispatch, self._queue.join(dispatch, limits))
        return run

    async def repeated(self, user_id: str, new: NewRun) -> Run | None:
        """The run that this asks for again. Raises ``IdempotencyMismatch``."""
        key = new.idempotency_key
        known = await self._rows.by_idempotency_key(user_id, key) if key is not None else None
        if known is not None and known.request_hash != new.hash():
            raise IdempotencyMismatch(
                "This Idempotency-Key belongs to an earlier request that was different.",
                hint="Use a new key for a new request; repeat a request unchanged.",
            )
        return known

    async def get(self, user_id: str, run_id: str) -> Run:
        """Raises ``NotFound``, also for a run of somebody else."""
        run = await self._rows.get(run_id) if is_id(run_id, "run") else None
        if run is None or run.user_id != user_id:
            raise NotFound("There is no such run.", hint="GET /v1/runs lists yours.")
        return run

    def standing(self, run: Run) -> Standing | None:
        """Why a queued run waits, and where in which line; None if it does not."""
        return self._queue.standing(run.id) if run.state == "queued" else None

    async def finished(self, user_id: str, run_id: str) -> Run:
        """The run once it has ended. Raises ``Unavailable`` if the service goes down before."""
        live = self._live.get(run_id)
        if live is not None and live.run.user_id == user_id:
            await live.log.wait_closed()
            run = live.run
        else:
            run = await self.get(user_id, run_id)
        if not run.finished:
            raise Unavailable(
                "The service is going down; the run goes on without it.",
                hint=f"GET /v1/runs/{run_id} in a moment, or repeat with the Idempotency-Key.",
            )
        return run

    async def awaited(self, user_id: str, run_id: str, *, within_s: float) -> Run:
        """The run once it has ended, or as it is after so long. Raises ``NotFound``."""
        live = self._live.get(run_id)
        if within_s and live is not None and live.run.user_id == user_id:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await live.log.wait_closed()
        return await self.get(user_id, run_id)

    async def page(
        self, user_id: str, *, session_id: str | None, before: str | None, limit: int
    ) -> list[Run]:
        if session_id is not None and not is_id(session_id, "ses"):
            return []
        last = await self.get(user_id, before) if before is not None else None
        return await self._rows.page(
            user_id, session_id=session_id, before=last, limit=min(limit, PAGE_MAX)
        )

    async def events(self, user_id: str, run_id: str, *, after: int = 0) -> AsyncIterator[LogEntry]:
        """Checks the run first; then its entries above ``after``, to the end and live."""
        await self.get(user_id, run_id)
        return self._follow(run_id, after)

    async def events_within(
        self, user_id: str, run_id: str, *, after: int, within_s: float
    ) -> tuple[list[LogEntry], bool]:
        """Entries above ``after`` that there are, or the next to come within so many seconds; and
        whether the log ends with them.
        """
        run = await self.get(user_id, run_id)
        live = self._live.get(run_id)
        if live is not None:
            await live.log.wait_for_more(after, within_s=within_s)
            entries = live.log.stored_after(after)
            return entries, live.log.ended
        if not run.finished:  # it ended while its row was read
            run = await self.get(user_id, run_id)
        return await self._rows.events(run_id, after=after), run.finished

    async def cancel(self, user_id: str, run_id: str) -> Run:
        """Ask for its end; harmless when it has ended. The run's last event tells of it."""
        run = await self.get(user_id, run_id)
        if not run.finished:
            await self._rows.request_cancel(run_id)
            live = self._live.get(run_id)
            if live is not None:
                live.cancel()
        return await self.get(user_id, run_id)

    async def changes(self, user_id: str, run_id: str) -> dict[str, Any]:
        """What a run did to the workspace: the fields of its ``files.changed``. Raises
        ``NotFound``, ``Conflict`` before its end.
        """
        run = await self.get(user_id, run_id)
        if not run.finished:
            raise Conflict("The run has not ended.", hint="Ask again when it has.")
        told = await self._rows.events(run_id, types={"files.changed"})
        if not told:
            raise NotFound(
                "This run does not tell what it changed.",
                hint='Runs that are sent with "diff": true do, unless their container was lost.',
            )
        return told[-1].data

    async def approvals(self, user_id: str, run_id: str) -> list[Approval]:
        """What the run has asked for, in that order. Raises ``NotFound``."""
        run = await self.get(user_id, run_id)
        return (await self._ledger(run)).all()

    async def decide(
        self, user_id: str, run_id: str, approval_id: str, decision: Decision
    ) -> Approval:
        """The first decision counts, and saying it again does no harm. Raises ``NotFound``,
        ``ApprovalDecided``, ``Unavailable``.
        """
        run = await self.get(user_id, run_id)
        approval = (await self._ledger(run)).get(approval_id)
        if approval is None:
            raise NotFound(
                "This run has asked for no such approval.",
                hint=f"GET /v1/runs/{run_id}/approvals lists them.",
            )
        live = self._live.get(run_id)
        decided = approval.decision
        if decided is None and live is not None and not live.run.finished:
            decided = await live.decide(approval_id, decision)
            approval = live.approvals.get(approval_id) or approval
        if decided is None:
            raise ApprovalDecided(
                "The run has ended, and this was never decided.", hint="Nothing was done."
            )
        if decided != decision:
            raise ApprovalDecided(
                f"It was decided before: {decided}.", hint="Cancel the run if that is wrong."
            )
        if approval.decision is None:  # the sandbox has taken it, and tells of it in a moment
            approval = replace(approval, decision=decided, by="user", decided_at=self._clock.now())
        return approval

    async def _ledger(self, run: Run) -> Ledger:
        live = self._live.get(run.id)
        if live is not None:
            return live.approvals
        return Ledger(run.id, await self._rows.events(run.id, types=TYPES))

    async def end_all(self, user_id: str) -> None:
        """Cancel whatever the user has under way, and wait until it has ended."""
        for live in [live for live in self._live.values() if live.run.user_id == user_id]:
            live.cancel()
            await live.log.wait_closed()

    async def _follow(self, run_id: str, after: int) -> AsyncIterator[LogEntry]:
        live = self._live.get(run_id)
        if live is not None:
            async for entry in live.log.follow(after):
                yield entry
            return
        for entry in await self._rows.events(run_id, after=after):
            yield entry

    async def _session_for(self, user_id: str, new: NewRun, now: float) -> tuple[Session, bool]:
        if new.session_id is None or new.begins:
            session_id = new.session_id or new_id("ses")
            return Session(session_id, user_id, new.provider, None, None, now, now), True
        session = await self.sessions.get(user_id, new.session_id)
        if session.provider != new.provider:
            raise InvalidRequest(
                f"This session belongs to {session.provider}, not to {new.provider}.",
                hint="Leave out session_id to start a new one.",
            )
        return session, False

    def _dispatch(self, run: Run, session: Session | None, stored: list[LogEntry]) -> Dispatch:
        dispatch = Dispatch(
            run,
            RunLog(run.id, stored),
            session,
            rows=self._rows,
            sandboxes=self._sandboxes,
            runtime=self._runtime,
            logins=self._logins,
            mcp_servers=self._mcp_servers,
            exits=self._exits,
            clock=self._clock,
        )
        self._live[run.id] = dispatch
        return dispatch

    def _start(self, dispatch: Dispatch, granted: asyncio.Event) -> None:
        task = asyncio.create_task(self._carry_through(dispatch, granted), name=dispatch.run.id)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_through(self, dispatch: Dispatch, granted: asyncio.Event) -> None:
        run = dispatch.run
        try:
            await dispatch.execute(granted=granted, begun=lambda: self._queue.begun(run.id))
        except Exception:  # noqa: BLE001  whatever it was, the run is not lost; it is logged
            # The run stays unfinished in the database, and the next start takes it up.
            _log.exception("run.abandoned", run=run.id)
        finally:
            dispatch.log.close()
            del self._live[run.id]
            self._queue.left(run.id)
            result = credential_result(dispatch.run)
            if result is not None:
                began_at = dispatch.run.started_at
                self._vault.note_use(run.user_id, run.provider, result, began_at=began_at)


# What a failed run says about the credential that paid for it.
_RESULTS: Final[dict[str, Result]] = {
    "provider_auth": "rejected",
    "provider_rate_limited": "rate_limited",
    "provider_unreachable": "unreachable",
    "provider_bad_request": "error",
    "provider_overloaded": "error",
    "provider_error": "error",
    "model_not_found": "error",
}


def credential_result(run: Run) -> Result | None:
    """None when the run does not tell: it was cancelled, or failed before the provider."""
    if run.state == "succeeded":
        return "ok"
    return _RESULTS.get(run.error_code) if run.error_code is not None else None


def _check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise InvalidRequest("The prompt is empty.", hint="Send the text for the agent.")
    try:
        size = len(prompt.encode())
    except UnicodeEncodeError:
        raise InvalidRequest(
            "The prompt holds half of a surrogate pair, which is no character.",
            hint="Encode the text as UTF-8.",
        ) from None
    if size > PROMPT_MAX_BYTES:
        raise PromptTooLarge(
            f"The prompt is {size} bytes long; {PROMPT_MAX_BYTES} are the most.",
            hint="Put large material into a file and name it in the prompt.",
        )


def _check_support(new: NewRun) -> None:
    problem = unsupported(
        new.provider, new.options, new_session=new.session_id is None or new.begins
    )
    if problem is None:
        return
    name, at_start = problem
    if at_start:
        raise NotSupported(
            f"{new.provider} takes {name} only with the first run of a session, for all of it.",
            hint="Leave out session_id to start a new one.",
        )
    able = [provider for provider in PROVIDERS if name in SUPPORTED[provider]]
    raise NotSupported(
        f"{new.provider} does not know {name}.", hint=f"These do: {', '.join(able)}."
    )
