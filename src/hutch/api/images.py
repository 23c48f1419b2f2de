from __future__ import annotations

from fastapi import APIRouter, Depends
from pydantic import Field

from hutch.api.caller import HutchDep, admin
from hutch.api.shapes import Asked, Shape, Time
from hutch.rollouts.models import FOR_DEFAULT_S, SHARE_DEFAULT, Origin, Phase

router = APIRouter(prefix="/v1/admin/image", tags=["images"], dependencies=[Depends(admin)])


class RollRequest(Asked):
    image: str = Field(max_length=200, description="A name or id that the engine knows.")
    share: int = Field(
        SHARE_DEFAULT,
        ge=1,
        le=100,
        description="Percent of the warm pool that tries it; at least one.",
    )
    for_s: float = Field(
        FOR_DEFAULT_S, ge=0, le=24 * 3600, description="Seconds for which it is tried, at most."
    )


class RolloutAnswer(Shape):
    id: int
    origin: Origin = Field(description="roll, or setting: HUTCH_IMAGE came to stand for it.")
    image: str
    image_id: str
    share: int
    for_s: float
    phase: Phase
    reason: str = Field(description="Why it is in that phase.")
    created_at: Time
    canary_at: Time | None
    done_at: Time | None
    ended_at: Time | None = Field(description="When it failed or was rolled back.")


class ImageAnswer(Shape):
    name: str
    id: str | None = Field(description="Null: there is no image of that name.")


class ImageStatus(Shape):
    current: ImageAnswer = Field(description="What new containers are made of.")
    setting: str = Field(description="HUTCH_IMAGE, used while nothing else was rolled out.")
    under_way: RolloutAnswer | None
    history: list[RolloutAnswer] = Field(description="The last ten, newest first.")
    sandboxes: dict[str, int] = Field(description="Live containers by the id of their image.")


class RemovedImage(Shape):
    id: str
    names: list[str]


class RemovedImages(Shape):
    removed: list[RemovedImage]


@router.get("")
async def get_image(hutch: HutchDep) -> ImageStatus:
    return ImageStatus.model_validate(await hutch.rollouts.status())


@router.post("/roll", status_code=202)
async def roll(asked: RollRequest, hutch: HutchDep) -> RolloutAnswer:
    """Check the image, try it on a share of the warm pool, then make every new container of it."""
    rollout = await hutch.rollouts.roll(asked.image, share=asked.share, for_s=asked.for_s)
    return RolloutAnswer.model_validate(rollout)


@router.post("/rollback")
async def rollback(hutch: HutchDep) -> RolloutAnswer:
    """Stop the roll-out that is under way, or go back to the image before; what was given up."""
    return RolloutAnswer.model_validate(await hutch.rollouts.rollback())


@router.post("/prune")
async def prune(hutch: HutchDep) -> RemovedImages:
    """Remove sandbox images that nothing uses; the last two stay."""
    removed = await hutch.rollouts.prune()
    return RemovedImages(removed=[RemovedImage.model_validate(image) for image in removed])
