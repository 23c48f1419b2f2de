"""Carry a roll-out through its phases: check the image, try it on a share of the pool, take it.

Holds when no roll-out is in a phase that it should have left. Each look re-reads its row, so that a
restart at any point goes on from there. Does not make sandboxes of it for users: the warm pool
does, by ``Rollouts.plan``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final

import structlog

from hutch.clock import Clock
from hutch.control.driver import TaskReport
from hutch.ids import new_id
from hutch.rollouts.models import Phase, Rollout
from hutch.rollouts.rows import RolloutRows
from hutch.rollouts.service import Rollouts
from hutch.rollouts.verdict import RunCounts, judge, suspicious
from hutch.runs.trial import Trial, TrialFailed
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.places import Places
from hutch.sandboxes.rows import SandboxRows
from hutch_runtime.protocol import Provider

_log = structlog.get_logger()

LOOK_EVERY_S: Final = 2.0
CHECK_WITHIN_S: Final = 300.0  # from the trial's container to its last turn
COMPARED_S: Final = 24 * 3600.0  # of runs in other images before the canary
_REASON_MAX: Final = 500  # characters


class RolloutTask:
    def __init__(
        self,
        rollouts: Rollouts,
        rows: RolloutRows,
        sandbox_rows: SandboxRows,
        trial: Trial,
        clock: Clock,
        *,
        places: Places,
        pool_size: Callable[[], int],
        offline: Callable[[], Awaitable[AbstractSet[Provider]]],
        wake: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        """``offline``: providers whose requests go to an offline model. ``wake``: the reconciler,
        for a sandbox. ``changed``: what new sandboxes are made of is another image now.
        """
        self._rollouts = rollouts
        self._rows = rows
        self._sandbox_rows = sandbox_rows
        self._trial = trial
        self._clock = clock
        self._places = places
        self._pool_size = pool_size
        self._offline = offline
        self._wake = wake
        self._changed = changed

    async def run(self) -> TaskReport:
        before = await self._rollouts.plan()
        await self._rollouts.follow()
        rollout = await self._rows.under_way()
        waits = ""
        if rollout is not None and rollout.phase == "checking":
            waits = await self._check(rollout)
        elif rollout is not None:
            waits = await self._judge(rollout)
        await self._end_trials()
        if await self._rollouts.plan() != before:
            self._changed()
        current = await self._rollouts.current()
        report: TaskReport = {"image": current.name, "id": current.id or ""}
        if rollout is not None:
            report |= {"candidate": rollout.image, "phase": rollout.phase, "waits": waits}
        return report

    async def _check(self, rollout: Rollout) -> str:
        """What it waits for."""
        trial_id = rollout.trial_id
        if trial_id is None:
            trial_id = new_id("sbx")
            await self._rows.note_trial(rollout, trial_id)
        sandbox = await self._sandbox_rows.get(trial_id)
        if sandbox is None:
            return await self._places.begin_member(partial(self._begin, rollout, trial_id))
        if not sandbox.trial or not sandbox.live:
            await self._move(rollout, "failed", sandbox.reason or "The trial's sandbox was ended.")
            return ""
        left_s = sandbox.created_at + CHECK_WITHIN_S - self._clock.now()
        if left_s <= 0:
            await self._move(rollout, "failed", f"It was not ready within {CHECK_WITHIN_S:g} s.")
        elif sandbox.observed == "warm":
            await self._try(rollout, sandbox, within_s=left_s)
        return "the trial's sandbox starts"

    async def _begin(self, rollout: Rollout, sandbox_id: str) -> None:
        now = self._clock.now()
        trial = Sandbox.begin(
            rollout.ref, user_id=None, desired="running", at=now, sandbox_id=sandbox_id
        )
        await self._sandbox_rows.add(trial)
        self._wake(sandbox_id)

    async def _try(self, rollout: Rollout, sandbox: Sandbox, *, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await self._trial.check(sandbox, asked=await self._offline())
        except TrialFailed as failed:
            await self._move(rollout, "failed", str(failed))
        except TimeoutError:
            await self._move(rollout, "failed", f"The check took more than {CHECK_WITHIN_S:g} s.")
        else:
            await self._move(rollout, "canary", "")

    async def _judge(self, rollout: Rollout) -> str:
        """What it waits for."""
        if self._pool_size() == 0:
            await self._move(rollout, "done", "there is no warm pool that could try it")
            return ""
        seen = await self._rows.seen(rollout)
        others = RunCounts()
        if suspicious(seen):
            since = (rollout.canary_at or rollout.created_at) - COMPARED_S
            others = await self._rows.runs_of_others(rollout, since=since)
        verdict, reason = judge(seen, others, now=self._clock.now(), for_s=rollout.for_s)
        if verdict == "wait":
            return reason
        await self._move(rollout, "done" if verdict == "done" else "failed", reason)
        return ""

    async def _move(self, rollout: Rollout, phase: Phase, reason: str) -> None:
        reason = reason[:_REASON_MAX]
        if not await self._rows.move(rollout, phase, at=self._clock.now(), reason=reason):
            return
        if phase == "failed":
            _log.warning("image.roll_failed", image=rollout.image, reason=reason)
        else:
            _log.info("image.rolled", image=rollout.image, phase=phase, reason=reason)

    async def _end_trials(self) -> None:
        """Those whose roll-out is no longer being checked, also one that a crash has left."""
        asked = await self._rows.under_way()
        wanted = asked.trial_id if asked is not None and asked.phase == "checking" else None
        for sandbox in await self._sandbox_rows.live():
            if sandbox.trial and sandbox.id != wanted:
                await self._sandbox_rows.want(sandbox.id, "destroyed")
                self._wake(sandbox.id)
