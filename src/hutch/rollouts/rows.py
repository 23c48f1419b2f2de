"""The image_rollouts table, and what sandboxes and runs tell of an image."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from hutch.rollouts.models import Origin, Phase, Rollout
from hutch.rollouts.verdict import RunCounts, Seen
from hutch.store.database import Database
from hutch.store.tables import image_rollouts as table
from hutch.store.tables import runs, sandboxes

# Failures that say nothing about what is in the image.
_OTHERS_FAULTS: Final = (
    *("exit_unavailable", "model_not_found", "needs_login", "not_found", "prompt_too_large"),
    *("provider_auth", "provider_bad_request", "provider_overloaded", "provider_rate_limited"),
    *("provider_unreachable", "session_lost", "timeout", "too_many_runs"),
)


class RolloutRows:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def current(self) -> Rollout | None:
        """What became done last."""
        return next(iter(await self._done(most=1)), None)

    async def former(self, current: Rollout) -> list[Rollout]:
        """What was current before, the latest first."""
        return [r for r in await self._done(most=50) if r.image_id != current.image_id]

    async def under_way(self) -> Rollout | None:
        return await self._first(table.c.under_way == 1)

    async def latest_of_setting(self) -> Rollout | None:
        return await self._first(table.c.origin == "setting")

    async def history(self, most: int) -> list[Rollout]:
        """The latest first."""
        query = select(table).order_by(table.c.id.desc()).limit(most)
        return [_rollout(row) for row in await self._database.all(query)]

    async def begin(
        self, image: str, image_id: str, *, share: int, for_s: float, at: float
    ) -> bool:
        """False if another one is under way."""
        values = _values("roll", image, image_id, "checking", at) | {"share": share, "for_s": for_s}
        try:
            await self._database.write(insert(table).values(**values, under_way=1))
        except IntegrityError:
            return False
        return True

    async def add_setting(self, image: str, image_id: str, *, in_use: bool, at: float) -> None:
        phase: Phase = "done" if in_use else "passed_over"
        values = _values("setting", image, image_id, phase, at)
        await self._database.write(insert(table).values(**values, done_at=at if in_use else None))

    async def note_trial(self, rollout: Rollout, sandbox_id: str) -> None:
        await self._database.write(
            update(table).where(table.c.id == rollout.id).values(trial_id=sandbox_id)
        )

    async def move(self, rollout: Rollout, phase: Phase, *, at: float, reason: str = "") -> bool:
        """On from the phase that it is in; false if somebody else has moved it."""
        times = {"canary": "canary_at", "done": "done_at"}
        change = update(table).where(table.c.id == rollout.id, table.c.phase == rollout.phase)
        values: dict[str, object] = {
            "phase": phase,
            "reason": reason,
            "under_way": 1 if phase == "canary" else None,
            times.get(phase, "ended_at"): at,
        }
        return bool(await self._database.write(change.values(**values)))

    async def go_back_to(self, rollout: Rollout, *, at: float, reason: str) -> None:
        """Give up what was done after it."""
        later = update(table).where(table.c.phase == "done", table.c.done_at > rollout.done_at)
        await self._database.write(later.values(phase="rolled_back", reason=reason, ended_at=at))

    async def seen(self, rollout: Rollout) -> Seen:
        """What became of the candidate since it is a canary, its trial aside."""
        since = rollout.canary_at or rollout.created_at
        of_it = (sandboxes.c.image_id == rollout.image_id, sandboxes.c.created_at >= since)
        states = await self._database.all(
            select(
                sandboxes.c.observed,
                sandboxes.c.user_id,
                sandboxes.c.reason,
                sandboxes.c.created_at,
            ).where(*of_it)
        )
        failed = [row for row in states if row.observed == "failed"]
        ready = [
            row.created_at
            for row in states
            if row.observed == "warm" or (row.user_id is not None and row.observed != "failed")
        ]
        return Seen(
            ready_since=min(ready, default=None),
            failed=len(failed),
            why=failed[-1].reason if failed else "",
            runs=await self._runs(*of_it),
        )

    async def runs_of_others(self, rollout: Rollout, *, since: float) -> RunCounts:
        return await self._runs(
            sandboxes.c.image_id.is_distinct_from(rollout.image_id), runs.c.finished_at >= since
        )

    async def _runs(self, *where: Any) -> RunCounts:
        query = (
            select(runs.c.state, runs.c.error_code, func.count().label("many"))
            .join(sandboxes, sandboxes.c.incarnation == runs.c.incarnation)
            .where(*where, runs.c.state.in_(("succeeded", "failed")))
            .group_by(runs.c.state, runs.c.error_code)
        )
        found = await self._database.all(query)
        return RunCounts(
            succeeded=sum(row.many for row in found if row.state == "succeeded"),
            failed=sum(
                row.many
                for row in found
                if row.state == "failed" and row.error_code not in _OTHERS_FAULTS
            ),
        )

    async def _done(self, *, most: int) -> list[Rollout]:
        query = select(table).where(table.c.phase == "done")
        newest = query.order_by(table.c.done_at.desc(), table.c.id.desc()).limit(most)
        return [_rollout(row) for row in await self._database.all(newest)]

    async def _first(self, where: Any) -> Rollout | None:
        row = await self._database.first(select(table).where(where).order_by(table.c.id.desc()))
        return _rollout(row) if row else None


def _values(
    origin: Origin, image: str, image_id: str, phase: Phase, at: float
) -> dict[str, object]:
    return {
        "origin": origin,
        "image": image,
        "image_id": image_id,
        "share": 100,
        "for_s": 0.0,
        "phase": phase,
        "reason": "",
        "created_at": at,
    }


def _rollout(row: Row[Any]) -> Rollout:
    known = dict(row._mapping)  # noqa: SLF001  (SQLAlchemy's public name for it)
    del known["under_way"]
    return Rollout(**known)
