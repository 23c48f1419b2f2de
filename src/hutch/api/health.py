from __future__ import annotations

from fastapi import APIRouter, Response
from sqlalchemy import text

from hutch.api.caller import HutchDep
from hutch.errors import BackendError

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(hutch: HutchDep, response: Response) -> dict[str, str]:
    """Each part that a run needs, with "ok" or what is wrong; 503 if any is wrong."""
    parts = {"database": "ok", "backend": "ok", "gateway": "ok"}
    await hutch.database.first(text("SELECT 1"))
    try:
        await hutch.backend.list()
    except BackendError as error:
        parts["backend"] = error.message
    if not hutch.gateway_sync.synced:
        parts["gateway"] = "The gateway does not answer; nothing gets out of a sandbox."
    if any(state != "ok" for state in parts.values()):
        response.status_code = 503
    return parts
