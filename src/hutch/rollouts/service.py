"""Ask for another image, take it back, and tell which one is in use.

Asking writes a row; the task in ``hutch.control.rollout`` carries it through its phases, and the
warm pool follows ``plan``.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from hutch.backends.base import Backend, Image
from hutch.clock import Clock
from hutch.errors import Conflict, InvalidRequest, NotFound
from hutch.rollouts.models import Plan, Rollout
from hutch.rollouts.prune import unused
from hutch.rollouts.rows import RolloutRows
from hutch.sandboxes.models import ImageRef
from hutch.sandboxes.service import Sandboxes

_log = structlog.get_logger()

HISTORY: Final = 10
_BUILD: Final = "`hutch image build` makes one, `hutch image list` shows those on this machine."
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._:/@-]{0,198}")  # as engines have them, or an id


@dataclass(frozen=True, slots=True)
class Status:
    current: ImageRef
    setting: str  # HUTCH_IMAGE
    under_way: Rollout | None
    history: list[Rollout]  # the latest first
    sandboxes: Mapping[str, int]  # that live, by the id of their image


class Rollouts:
    def __init__(
        self,
        rows: RolloutRows,
        backend: Backend,
        clock: Clock,
        *,
        setting: str,
        sandboxes: Callable[[], Sandboxes],
        wake: Callable[[], None],
    ) -> None:
        """``setting``: the name of the image while nobody has rolled out another one."""
        self._rows = rows
        self._backend = backend
        self._clock = clock
        self._setting = setting
        self._following = asyncio.Lock()
        self._sandboxes = sandboxes
        self._wake = wake

    async def current(self) -> ImageRef:
        rollout = await self._rows.current()
        return rollout.ref if rollout else ImageRef(self._setting, None)

    async def plan(self) -> Plan:
        current, asked = await self.current(), await self._rows.under_way()
        if asked is None or asked.phase != "canary":
            return Plan(current)
        return Plan(current, asked.ref, asked.share)

    async def follow(self) -> None:
        """Take what HUTCH_IMAGE stands for now, if that has changed and nothing was rolled out."""
        async with self._following:
            await self._follow()

    async def _follow(self) -> None:
        image = await self._backend.image(self._setting)
        before = await self._rows.latest_of_setting()
        if image is None:
            return
        if before and (before.image, before.image_id) == (self._setting, image.id):
            return
        current = await self._rows.current()
        rolled = current is not None and current.origin == "roll"
        renamed = before is not None and before.image != self._setting
        in_use = renamed or not rolled
        await self._rows.add_setting(self._setting, image.id, in_use=in_use, at=self._clock.now())
        _log.info("image.changed", image=self._setting, id=image.id, in_use=in_use)

    async def roll(self, name: str, *, share: int, for_s: float) -> Rollout:
        """Raises ``InvalidRequest``, ``NotFound``, ``Conflict``."""
        image = await self._usable(name)
        await self.follow()  # what it takes the place of is written down before it
        if image.id == (await self.current()).id:
            raise Conflict(f"{name} is what new containers are made of already.")
        began = self._clock.now()
        if not await self._rows.begin(name, image.id, share=share, for_s=for_s, at=began):
            raise Conflict(
                "Another image is being rolled out.",
                hint="`hutch image status` tells how far it is, `hutch image rollback` stops it.",
            )
        _log.info("image.roll_asked", image=name, id=image.id, share=share)
        self._wake()
        return await self._latest()

    async def rollback(self) -> Rollout:
        """Stop what is under way; else go back to what was current before. Returns what was given
        up. Raises ``Conflict``.
        """
        now = self._clock.now()
        asked = await self._rows.under_way()
        if asked is not None and await self._rows.move(
            asked, "rolled_back", at=now, reason="an operator stopped it"
        ):
            _log.info("image.rolled_back", image=asked.image, id=asked.image_id)
            self._wake()
            return asked
        current = await self._rows.current()
        former = await self._rows.former(current) if current else []
        for rollout in former:
            if current and await self._backend.image(rollout.image_id) is not None:
                reason = f"an operator went back to {rollout.image}"
                await self._rows.go_back_to(rollout, at=now, reason=reason)
                _log.info("image.rolled_back", image=current.image, id=current.image_id)
                self._wake()
                return current
        raise Conflict(
            "There is no earlier image to go back to.",
            hint="`hutch image roll NEW` takes any image that `hutch image list` shows.",
        )

    async def status(self) -> Status:
        live = await self._sandboxes().all()
        return Status(
            current=await self.current(),
            setting=self._setting,
            under_way=await self._rows.under_way(),
            history=await self._rows.history(HISTORY),
            sandboxes=Counter(sandbox.image_id or sandbox.image for sandbox in live),
        )

    async def prune(self) -> list[Image]:
        """Remove images of ours that nothing uses any more; which went."""
        images = await self._backend.images()
        current = await self._rows.current()
        asked = await self._rows.under_way()
        setting = await self._backend.image(self._setting)
        former = await self._rows.former(current) if current else []
        in_use = {s.image_id for s in await self._sandboxes().all()}
        in_use |= {r.image_id for r in (current, asked, *former[:1]) if r is not None}
        in_use |= {setting.id} if setting else set()
        gone = [
            image
            for image in unused(images, in_use, repository=_repository(self._setting))
            if await self._backend.remove_image(image)
        ]
        for image in gone:
            _log.info("image.removed", id=image.id, names=" ".join(image.names))
        return gone

    async def _usable(self, name: str) -> Image:
        if not _NAME.fullmatch(name) or ".." in name:
            raise InvalidRequest(f"{name[:200]!r} is no name of an image.", hint=_BUILD)
        image = await self._backend.image(name)
        if image is None:
            raise NotFound(f"There is no image {name} on this machine.", hint=_BUILD)
        if not image.holds_runtime:
            raise InvalidRequest(
                f"{name} is no sandbox image: Hutch's runtime is not in it.", hint=_BUILD
            )
        return image

    async def _latest(self) -> Rollout:
        [rollout] = await self._rows.history(1)
        return rollout


def _repository(name: str) -> str:
    """``host:5000/a/b:tag`` is ``host:5000/a/b``."""
    path, _, last = name.rpartition("/")
    return f"{path}/{last.partition(':')[0]}" if path else last.partition(":")[0]
