"""Whether a canary is to be stopped, has lasted, or has to go on. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

ENOUGH_RUNS: Final = 20  # that went well, and the canary need not last any longer
# One may fail for a reason of the host's: memory, an engine that hangs.
FAILED_MAX: Final = 1
# Fewer failures than these are nobody's rate; then they must be more than double the others'.
_FAILED_RUNS_MIN: Final = 3
_TIMES_WORSE: Final = 2.0
_MARGIN: Final = 0.1


@dataclass(frozen=True, slots=True)
class RunCounts:
    """Runs that ended; failures that are no image's fault are not among them."""

    succeeded: int = 0
    failed: int = 0

    @property
    def failure_rate(self) -> float:
        return self.failed / max(1, self.succeeded + self.failed)


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of sandboxes of the candidate."""

    ready_since: float | None = None  # Unix time; None while none has become ready
    failed: int = 0
    why: str = ""  # the last of these failed
    runs: RunCounts = RunCounts()


def suspicious(seen: Seen) -> bool:
    """Whether its runs fail often enough for the others' rate to be of interest."""
    return seen.runs.failed >= _FAILED_RUNS_MIN


def judge(
    seen: Seen, others: RunCounts, *, now: float, for_s: float
) -> tuple[Literal["stop", "done", "wait"], str]:
    """And why."""
    if seen.failed > FAILED_MAX:
        return "stop", f"{seen.failed} sandboxes of it failed: {seen.why}"
    rate = seen.runs.failure_rate
    if suspicious(seen) and rate > _TIMES_WORSE * others.failure_rate + _MARGIN:
        return "stop", (
            f"{seen.runs.failed} of its {seen.runs.failed + seen.runs.succeeded} runs failed "
            f"({rate:.0%}), {others.failure_rate:.0%} of those in other images"
        )
    if seen.ready_since is None:
        return "wait", "none of it is warm yet"
    if seen.runs.succeeded >= ENOUGH_RUNS:
        return "done", f"{seen.runs.succeeded} runs went well in it"
    left_s = seen.ready_since + for_s - now
    if left_s <= 0:
        return "done", f"it was well for {for_s:g} s"
    return "wait", f"for {left_s:.0f} s more, or {ENOUGH_RUNS - seen.runs.succeeded} runs"
