from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from hutch.api.auditing import about
from hutch.api.caller import HutchDep, admin
from hutch.api.shapes import Asked, Shape, TaskAnswer, TaskPage, Time
from hutch.app import Hutch
from hutch.errors import NotFound

router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[Depends(admin)])


class PoolRequest(Asked):
    size: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] = Field(
        description="auto gives it back to the rules."
    )


class PoolTarget(Shape):
    target: int = Field(description="How many there should be.")
    by_hand: bool = Field(description="The operator's word; the rules wait.")
    least: int = Field(description="Of the rules; 0 switches them off.")
    most: int


class Inputs(Shape):
    waiting_runs: int = Field(description="For a container.")
    warm: int
    containers: int = Field(description="That there are, or are promised.")
    cpu_percent: float | None = Field(description="Of the host, over a minute.")
    memory_percent: float | None


class Bounds(Shape):
    max_containers: int
    memory_reserve_mb: int
    container_mb: int = Field(description="What one is expected to take, as measured.")


class DecisionAnswer(Shape):
    what: str = Field(description="up, down, by_hand or auto.")
    why: str
    at: Time
    before: int
    after: int


class ScalingAnswer(Shape):
    pool: PoolTarget
    inputs: Inputs = Field(description="As of the last look, every 2 s.")
    bounds: Bounds
    held_back: list[str] = Field(description="Users whose container others wait for.")
    decisions: list[DecisionAnswer] = Field(description="The last hundred, newest first.")


class QueueHealth(Shape):
    depth: int = Field(description="Runs that have no container yet.")
    oldest_wait_s: float
    reasons: dict[str, int] = Field(description="How many wait for what.")
    waiting_users: int = Field(description="For a place for a container.")


class HealthAnswer(Shape):
    containers: dict[str, int] = Field(description="By state.")
    cpu_percent: float | None = Field(description="Of the host, over a minute.")
    memory_percent: float | None
    memory_available_mb: int | None
    queue: QueueHealth
    pool: PoolTarget
    alerts: int


class ReleaseAnswer(Shape):
    id: str
    kept: bool = Field(description="In the pool, since nobody has used it; else it was destroyed.")


@router.get("/scaling")
async def get_scaling(hutch: HutchDep) -> ScalingAnswer:
    """How large the pool should be, why, and what was decided before."""
    scaling = hutch.scaling
    return ScalingAnswer(
        pool=_pool(hutch),
        inputs=Inputs.model_validate(scaling.inputs),
        bounds=Bounds(
            max_containers=hutch.places.most,
            memory_reserve_mb=hutch.places.reserve_mb,
            container_mb=hutch.places.expected_mb,
        ),
        held_back=hutch.places.held(),
        decisions=[DecisionAnswer.model_validate(one) for one in scaling.decisions()],
    )


@router.put("/pool")
async def scale_pool(asked: PoolRequest, hutch: HutchDep) -> ScalingAnswer:
    """Keep so many warm (the plan's `scalePool`), also after a restart; `auto` ends that."""
    await hutch.scaling.set_by_hand(None if asked.size == "auto" else asked.size)
    await hutch.driver.run_now("scaling", "pool")
    return await get_scaling(hutch)


@router.post("/maintain")
async def maintain(hutch: HutchDep) -> TaskPage:
    """Run the tasks of scaling and pool now (the plan's `maintainWarmPool`); what they report."""
    done = await hutch.driver.run_now("scaling", "pool")
    return TaskPage(tasks=[TaskAnswer.model_validate(task) for task in done])


@router.get("/health")
async def health(hutch: HutchDep) -> HealthAnswer:
    """How the service is doing (the plan's `getContainerHealth`)."""
    memory = hutch.load.memory()
    return HealthAnswer(
        containers=Counter(sandbox.observed for sandbox in await hutch.sandboxes.all()),
        cpu_percent=hutch.scaling.inputs.cpu_percent,
        memory_percent=hutch.scaling.inputs.memory_percent,
        memory_available_mb=memory.available_mb if memory is not None else None,
        queue=QueueHealth(
            depth=hutch.run_queue.depth(),
            oldest_wait_s=round(hutch.run_queue.oldest_wait_s(), 3),
            reasons=hutch.run_queue.reasons(),
            waiting_users=hutch.places.waiting(),
        ),
        pool=_pool(hutch),
        alerts=len(hutch.alerts()),
    )


@router.post("/containers/{container_id}/release")
async def release_container(container_id: str, hutch: HutchDep) -> ReleaseAnswer:
    """End a user's container (the plan's `releaseContainer`). One that nobody has used stays in the
    pool; a used one never goes back.
    """
    for sandbox in await hutch.sandboxes.all():
        if sandbox.id == container_id:
            about(user_id=sandbox.user_id)
            if sandbox.user_id is not None:
                await hutch.sandboxes.destroy(sandbox.user_id)
            return ReleaseAnswer(id=container_id, kept=sandbox.user_id is None)
    raise NotFound("There is no such container.", hint="GET /v1/admin/containers lists them.")


def _pool(hutch: Hutch) -> PoolTarget:
    scaling = hutch.scaling
    return PoolTarget(
        target=scaling.target,
        by_hand=scaling.by_hand,
        least=scaling.rules.least,
        most=scaling.rules.most,
    )
