from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from hutch.api.caller import CallerDep, HutchDep
from hutch.api.patience import soon
from hutch.api.shapes import ForkRequest, SessionAnswer, SessionChange, SessionPage
from hutch.runs.transcript import as_json, as_markdown

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])


@router.get("")
async def list_sessions(
    hutch: HutchDep, caller: CallerDep, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> SessionPage:
    """Last used first."""
    page = await hutch.sessions.page(caller.user_id, limit=limit)
    return SessionPage(sessions=[SessionAnswer.model_validate(s) for s in page])


@router.get("/{session_id}")
async def get_session(session_id: str, hutch: HutchDep, caller: CallerDep) -> SessionAnswer:
    return SessionAnswer.model_validate(await hutch.sessions.get(caller.user_id, session_id))


@router.patch("/{session_id}")
async def name_session(
    session_id: str, asked: SessionChange, hutch: HutchDep, caller: CallerDep
) -> SessionAnswer:
    session = await hutch.sessions.rename(caller.user_id, session_id, asked.name)
    return SessionAnswer.model_validate(session)


@router.post("/{session_id}/fork", status_code=201)
async def fork_session(
    session_id: str, asked: ForkRequest, hutch: HutchDep, caller: CallerDep
) -> SessionAnswer:
    """Another session with what has been said in this one until now; each goes its own way."""
    forked = await soon(hutch.sessions.fork(caller.user_id, session_id, asked.name))
    return SessionAnswer.model_validate(forked)


@router.get(
    "/{session_id}/transcript",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/markdown": {}, "application/json": {}}}},
)
async def read_transcript(
    *,
    session_id: str,
    request: Request,
    hutch: HutchDep,
    caller: CallerDep,
    format: Annotated[  # noqa: A002  the name in the URL
        Literal["md", "json"] | None, Query(description="Counts more than Accept.")
    ] = None,
) -> Response:
    """What was asked, said and done in it, from the first run to the last."""
    session, told = await hutch.sessions.transcript(caller.user_id, session_id)
    wanted = request.headers.get("accept", "").startswith("text/markdown")
    if format == "md" or (format is None and wanted):
        return StreamingResponse(as_markdown(session, told), media_type="text/markdown")
    return StreamingResponse(as_json(session, told), media_type="application/json")


@router.delete("/{session_id}", status_code=204)
async def delete_session(session_id: str, hutch: HutchDep, caller: CallerDep) -> None:
    """And its runs with all their events."""
    await hutch.sessions.delete(caller.user_id, session_id)
