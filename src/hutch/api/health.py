from __future__ import annotations

import asyncio
from typing import Final

from fastapi import APIRouter, Response
from sqlalchemy import text

from hutch.api.caller import HutchDep
from hutch.errors import BackendError, Unavailable

_ENGINE_S: Final = 3.0  # who asks whether we are ready does not wait long

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(hutch: HutchDep, response: Response) -> dict[str, str]:
    """Each part that a run needs, with "ok" or what is wrong; 503 if any is wrong. Runs go on
    without the firewall.
    """
    parts = {"database": "ok", "backend": "ok", "gateway": "ok"}
    try:
        await hutch.database.first(text("SELECT 1"))
    except Unavailable as error:
        parts["database"] = error.message
    try:
        async with asyncio.timeout(_ENGINE_S):
            await hutch.backend.list()
    except BackendError as error:
        parts["backend"] = error.message
    except TimeoutError:
        parts["backend"] = f"The container engine has not answered for {_ENGINE_S:g} s."
    if not hutch.gateway_sync.synced:
        parts["gateway"] = "The gateway does not answer; nothing gets out of a sandbox."
    if any(state != "ok" for state in parts.values()):
        response.status_code = 503
    down = [alert.detail for alert in hutch.firewall.alerts()]
    return {**parts, "firewall": "; ".join(down) or "ok"}
