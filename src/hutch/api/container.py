from __future__ import annotations

from fastapi import APIRouter

from hutch.api.auditing import about
from hutch.api.caller import CallerDep, HutchDep
from hutch.api.patience import soon
from hutch.api.quotas import quotas
from hutch.api.shapes import ContainerAgent, ContainerAnswer, ContainerSnapshot, ContainerStats
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
    if sandbox.observed == "hibernated" and sandbox.user_id is not None:
        snapshot = await hutch.snapshots.latest(sandbox.user_id)
        if snapshot is not None:
            shape.snapshot = ContainerSnapshot(
                bytes=snapshot.size,
                stored_bytes=snapshot.stored,
                created_at=snapshot.created_at,
                kept_until=await hutch.retention.kept_until(snapshot),
            )
    return shape


@router.get("")
async def get_container(hutch: HutchDep, caller: CallerDep) -> ContainerAnswer:
    sandbox = await hutch.sandboxes.of(caller.user_id)
    shape = await answer(hutch, sandbox)
    inside = await hutch.sandboxes.inside(sandbox)
    shape.agents = [
        ContainerAgent(provider=provider, state=state) for provider, state in inside.agents
    ]
    shape.quotas = await quotas(hutch, sandbox, shape.stats, inside)
    return shape


@router.put("")
async def put_container(hutch: HutchDep, caller: CallerDep) -> ContainerAnswer:
    """The user's container, made or woken if need be; answers, without `stats`, once it is
    ready.
    """
    return ContainerAnswer.model_validate(await soon(hutch.sandboxes.ensure(caller.user_id)))


@router.post("/hibernate")
async def hibernate_container(hutch: HutchDep, caller: CallerDep) -> ContainerAnswer:
    """Store what is in it and end it now, rather than when it has been idle for long. The next run
    finds everything as it was.
    """
    return await answer(hutch, await hutch.sandboxes.hibernate(caller.user_id))


@router.delete("")
async def delete_container(hutch: HutchDep, caller: CallerDep) -> ContainerAnswer:
    """End the container with everything in it, and delete what is stored of it. Runs end as
    `sandbox_lost`, sessions are lost.
    """
    destroyed = await hutch.sandboxes.destroy(caller.user_id)
    about(container_id=destroyed.id)
    return ContainerAnswer.model_validate(destroyed)
