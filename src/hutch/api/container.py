from __future__ import annotations

from fastapi import APIRouter

from hutch.api.caller import CallerDep, HutchDep
from hutch.api.shapes import ContainerAgent, ContainerAnswer, ContainerStats
from hutch.app import Hutch
from hutch.errors import BackendError
from hutch.sandboxes.models import Sandbox

router = APIRouter(prefix="/v1/container", tags=["container"])


async def answer(hutch: Hutch, sandbox: Sandbox) -> ContainerAnswer:
    try:
        stats = await hutch.sandboxes.stats(sandbox)
    except BackendError:  # it may have ended a moment ago; the rest is still worth telling
        stats = None
    shape = ContainerAnswer.model_validate(sandbox)
    shape.stats = ContainerStats.model_validate(stats) if stats else None
    return shape


@router.get("")
async def get_container(hutch: HutchDep, caller: CallerDep) -> ContainerAnswer:
    sandbox = await hutch.sandboxes.of(caller.user_id)
    shape = await answer(hutch, sandbox)
    shape.agents = [
        ContainerAgent(provider=provider, state=state)
        for provider, state in await hutch.sandboxes.agents(sandbox)
    ]
    return shape


@router.delete("")
async def delete_container(hutch: HutchDep, caller: CallerDep) -> ContainerAnswer:
    """End the container with everything in it. Runs end as `sandbox_lost`, sessions are lost."""
    return ContainerAnswer.model_validate(await hutch.sandboxes.destroy(caller.user_id))
