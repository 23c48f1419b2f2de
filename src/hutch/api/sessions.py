from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from hutch.api.caller import CallerDep, HutchDep
from hutch.api.shapes import SessionAnswer, SessionPage

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])


@router.get("")
async def list_sessions(
    hutch: HutchDep, caller: CallerDep, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> SessionPage:
    """Last used first."""
    page = await hutch.runs.sessions(caller.user_id, limit=limit)
    return SessionPage(sessions=[SessionAnswer.model_validate(s) for s in page])


@router.get("/{session_id}")
async def get_session(session_id: str, hutch: HutchDep, caller: CallerDep) -> SessionAnswer:
    return SessionAnswer.model_validate(await hutch.runs.session(caller.user_id, session_id))


@router.delete("/{session_id}", status_code=204)
async def delete_session(session_id: str, hutch: HutchDep, caller: CallerDep) -> None:
    """And its runs with all their events."""
    await hutch.runs.delete_session(caller.user_id, session_id)
