"""Compare what clients sent and saw, the database, the model's log and the engine. Pure.

*Ours or the CLI's?* A CLI asks its model again when a connection breaks under it, which is right.
A prompt that reached the model more than once is held against Hutch unless all of this is so: no
answer but the last reached its end (a CLI does not ask again after a whole answer), all requests
come from one and the same turn or session as the CLI itself numbers them, and the conversation
holds the prompt once. A run that Hutch sends again has another turn's number (codex), another
session's (claude), or the prompt twice in its history (all three, gemini included).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from chaos.evidence import MARK, Asked, Evidence, ModelRequest

Kind: TypeAlias = Literal["lost", "doubled", "orphan", "stuck", "stream", "wrong"]
KINDS: Final[tuple[Kind, ...]] = ("lost", "doubled", "orphan", "stuck", "stream", "wrong")

FINISHED: Final = frozenset({"succeeded", "failed", "cancelled"})
OVER: Final = frozenset({"destroyed", "failed", "hibernated"})  # without a container
# What a kill may do to a run. Anything else that a run ends with is a fault.
HONEST: Final = frozenset(
    {
        "agent_died",
        "agent_start_failed",
        "backend_error",
        "provider_error",
        "provider_overloaded",
        "provider_unreachable",
        "sandbox_failed",
        "sandbox_lost",
        "session_lost",
    }
)
# An answer may have been written to a connection whose other end was killed before it read it.
_IN_FLIGHT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    kind: Kind
    what: str


def audit(evidence: Evidence) -> list[Finding]:
    return [
        *_lost(evidence),
        *_doubled(evidence),
        *_orphans(evidence),
        *_stuck(evidence),
        *_streams(evidence),
        *_wrong(evidence),
    ]


def _lost(evidence: Evidence) -> Iterator[Finding]:
    """Accepted, and then gone; or never accepted although the service was there in the end."""
    rows = {run["id"] for run in evidence.runs}
    for asked in evidence.asked:
        for run_id in set(asked.run_ids) - rows:
            yield Finding("lost", f"{asked.mark}: {run_id} is in no row")
        if not asked.run_ids and not asked.refused:
            yield Finding("lost", f"{asked.mark}: asked, and never accepted")
    yield from _forgotten(evidence)
    reached = {mark for request in evidence.model for mark in request.marks[-1:]}
    for run in evidence.runs:
        mark = _mark(run["prompt"])
        if run["state"] == "succeeded" and mark not in reached:
            yield Finding("lost", f"{mark}: succeeded, and the model was never asked")


def _forgotten(evidence: Evidence) -> Iterator[Finding]:
    """A session knows what was said in it before, whatever its container went through."""
    said: dict[str, str] = {}  # by session, the mark of the last prompt that was answered in it
    heard = {request.marks[-1]: request.marks for request in evidence.model if request.marks}
    for asked in evidence.asked:
        session = asked.session_seen
        if asked.state != "succeeded" or session is None:
            continue
        before = said.get(session)
        if before is not None and before not in heard.get(asked.mark, [before]):
            yield Finding("lost", f"{asked.mark}: its session has forgotten {before}")
        said[session] = asked.mark


def _doubled(evidence: Evidence) -> Iterator[Finding]:
    for asked in evidence.asked:
        if len(set(asked.run_ids)) > 1:
            yield Finding("doubled", f"{asked.mark}: one key, runs {sorted(set(asked.run_ids))}")
    for mark, count in Counter(_mark(run["prompt"]) for run in evidence.runs).items():
        if count > 1:
            yield Finding("doubled", f"{mark}: {count} runs of one prompt")
    turns: defaultdict[str, list[ModelRequest]] = defaultdict(list)
    for request in evidence.model:
        for mark in request.marks[-1:]:
            turns[mark].append(request)
    kills = [kill.at for kill in evidence.kills]
    for mark, requests in turns.items():
        for request in requests:
            if request.marks.count(mark) > 1:
                yield Finding("doubled", f"{mark}: said twice in one conversation")
        if len(requests) == 1:
            continue
        requests.sort(key=lambda request: request.began)
        if len({request.turn for request in requests}) > 1:
            yield Finding("doubled", f"{mark}: asked in {len(requests)} turns of its CLI")
        for request in requests[:-1]:
            if request.whole and not _cut_in_flight(request, kills):
                yield Finding("doubled", f"{mark}: asked again after a whole answer")
    for run_id, events in evidence.events.items():
        started = sum(kind == "run.started" for _, kind in events)
        if started > 1:
            yield Finding("doubled", f"{run_id}: started {started} times")


def _cut_in_flight(request: ModelRequest, kills: list[float]) -> bool:
    ended = request.ended or request.began
    return any(ended - _IN_FLIGHT_S < kill < ended + _IN_FLIGHT_S for kill in kills)


def _orphans(evidence: Evidence) -> Iterator[Finding]:
    live = {s["handle"] for s in evidence.sandboxes if s["observed"] not in OVER}
    for handle, state in evidence.containers.items():
        if handle not in live:
            yield Finding("orphan", f"container {handle[:12]} ({state}) that no live row knows")
    for handle, pids in evidence.processes.items():
        if handle not in evidence.containers:
            yield Finding("orphan", f"processes {pids} of {handle[:12]}, which is no container")


def _stuck(evidence: Evidence) -> Iterator[Finding]:
    for run in evidence.runs:
        if run["state"] not in FINISHED:
            yield Finding("stuck", f"{_mark(run['prompt'])}: {run['id']} is {run['state']}")
    for asked in evidence.asked:
        if asked.gave_up:
            yield Finding("stuck", f"{asked.mark}: no end within its client's patience")
    for sandbox in evidence.sandboxes:
        if sandbox["observed"] in OVER:
            continue
        state = evidence.containers.get(sandbox["handle"])
        if state is None:
            yield Finding("stuck", f"row {sandbox['id']} points to no container")
        elif state not in {"running", "paused"}:
            yield Finding("stuck", f"row {sandbox['id']} points to a container that is {state}")
        if sandbox["desired"] == "destroyed":
            yield Finding("stuck", f"row {sandbox['id']} is {sandbox['observed']}, not destroyed")


def _streams(evidence: Evidence) -> Iterator[Finding]:
    for run in evidence.runs:
        yield from _log(f"{run['id']} as stored", evidence.events.get(run["id"], []))
    for asked in evidence.asked:
        if not asked.run_ids or asked.gave_up:
            continue
        yield from _log(f"{asked.mark} as its client saw it", asked.events)
        stored = evidence.events.get(asked.run_ids[0], [])
        if asked.events != stored:
            at = next(
                (i for i, (a, b) in enumerate(zip(asked.events, stored, strict=False)) if a != b),
                min(len(asked.events), len(stored)),
            )
            yield Finding("stream", f"{asked.mark}: seen and stored differ from number {at + 1} on")


def _log(name: str, events: list[tuple[int, str]]) -> Iterator[Finding]:
    """From 1 without a gap or a repetition, one end, and that the last."""
    numbers = [seq for seq, _ in events]
    if numbers != list(range(1, len(numbers) + 1)):
        yield Finding("stream", f"{name}: numbers {numbers[:5]} … {numbers[-5:]}")
    kinds = [kind for _, kind in events]
    if kinds.count("run.finished") != 1 or kinds[-1] != "run.finished":
        yield Finding("stream", f"{name}: {kinds.count('run.finished')} ends, last {kinds[-1:]}")


def _wrong(evidence: Evidence) -> Iterator[Finding]:
    """Answers that are true of no kill."""
    for asked in evidence.asked:
        if asked.refused:
            yield Finding("wrong", f"{asked.mark}: refused with {asked.refused}")
        if asked.state == "cancelled" and not asked.cancelled:
            yield Finding("wrong", f"{asked.mark}: cancelled, and nobody had asked for it")
        if asked.after_the_storm and asked.state != "succeeded":
            yield Finding("wrong", f"{asked.mark}: all was well again, and it {_end(asked)}")
    for run in evidence.runs:
        if run["error_code"] is not None and run["error_code"] not in HONEST:
            said = f"{run['error_code']}: {run['error_message']}"
            yield Finding("wrong", f"{_mark(run['prompt'])}: failed with {said}")


def _end(asked: Asked) -> str:
    return f"{asked.state} ({asked.error})"


def _mark(prompt: str) -> str:
    found = MARK.search(prompt)
    return found[0] if found else prompt[:40]
