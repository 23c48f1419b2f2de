from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from hutch.api.auditing import about
from hutch.api.caller import CallerDep, HutchDep
from hutch.api.shapes import WAIT_MAX_S, RunAnswer, RunPage, RunRequest, RunWithPrompt
from hutch.api.shapes_files import ChangesAnswer
from hutch.api.streams import event_page, event_stream
from hutch.errors import InvalidRequest
from hutch.runs.service import NewRun

router = APIRouter(prefix="/v1/runs", tags=["runs"])

# A request is open for as long; most proxies cut one that is silent for 60 s.
WaitQuery = Annotated[float, Query(ge=0, le=WAIT_MAX_S, description="Seconds, at most.")]


@router.post("", response_model=RunAnswer)
async def create_run(
    asked: RunRequest,
    hutch: HutchDep,
    caller: CallerDep,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> RunAnswer | StreamingResponse:
    """Run a prompt in the user's own container, and wait for the end, stream the events, or with
    `wait` answer earlier.

    The run goes on if the connection breaks. With an `Idempotency-Key`, asking again finds it.
    """
    run = await hutch.runs.submit(
        caller.user_id,
        NewRun(
            provider=asked.provider,
            prompt=asked.prompt,
            model=asked.model,
            session_id=asked.session_id,
            timeout_s=asked.timeout_s,
            idempotency_key=idempotency_key,
            options=asked.options(),
            attachments=asked.files(),
        ),
    )
    about(run_id=run.id, provider=run.provider)
    if asked.stream:
        entries = await hutch.runs.events(caller.user_id, run.id)
        return event_stream(
            entries, headers={"x-hutch-run": run.id, "x-hutch-session": run.session_id}
        )
    if asked.wait is not None:
        run = await hutch.runs.awaited(caller.user_id, run.id, within_s=asked.wait)
        return RunAnswer.of(run, hutch.runs.standing(run))
    return RunAnswer.of(await hutch.runs.finished(caller.user_id, run.id))


@router.get("")
async def list_runs(
    hutch: HutchDep,
    caller: CallerDep,
    session_id: str | None = None,
    before: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> RunPage:
    """Newest first."""
    page = await hutch.runs.page(caller.user_id, session_id=session_id, before=before, limit=limit)
    return RunPage(
        runs=[RunAnswer.of(run) for run in page],
        next=page[-1].id if len(page) == limit else None,
    )


@router.get("/{run_id}")
async def get_run(
    run_id: str, hutch: HutchDep, caller: CallerDep, wait: WaitQuery = 0
) -> RunWithPrompt:
    """With `wait`, once it has ended, or as it is after so long."""
    run = await hutch.runs.awaited(caller.user_id, run_id, within_s=wait)
    return RunWithPrompt.whole(run, hutch.runs.standing(run))


@router.get(
    "/{run_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}, "application/json": {}}},
    },
)
async def follow_run(
    *,
    run_id: str,
    request: Request,
    hutch: HutchDep,
    caller: CallerDep,
    after: Annotated[int, Query(ge=0, lt=10**12, description="The last seq you saw.")] = 0,
    wait: WaitQuery = 0,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """The run's events after `Last-Event-ID`, or `after`; live until the run has ended.

    With `Accept: application/json` those that are there, or the next that come within `wait`.
    """
    if last_event_id is not None:
        if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) <= 12):
            raise InvalidRequest("Last-Event-ID is not a number.", hint="Send the last id you saw.")
        after = int(last_event_id)
    if request.headers.get("accept", "").startswith("application/json"):
        return event_page(
            await hutch.runs.events_within(caller.user_id, run_id, after=after, within_s=wait),
            after=after,
        )
    return event_stream(await hutch.runs.events(caller.user_id, run_id, after=after))


@router.get("/{run_id}/diff")
async def run_diff(run_id: str, hutch: HutchDep, caller: CallerDep) -> ChangesAnswer:
    """What a run with `diff` changed in the workspace; kept with its events."""
    return ChangesAnswer.model_validate(await hutch.runs.changes(caller.user_id, run_id))


@router.post("/{run_id}/cancel")
async def cancel_run(run_id: str, hutch: HutchDep, caller: CallerDep) -> RunAnswer:
    """End the turn, not the session. The run's last event tells when it has ended."""
    return RunAnswer.of(await hutch.runs.cancel(caller.user_id, run_id))
