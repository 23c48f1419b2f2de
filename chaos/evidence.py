"""What is known after a storm, from four sides that know nothing of each other."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import create_engine, select

from hutch.store.open import parse
from hutch.store.tables import run_events, runs, sandboxes

_RUNS: Final = select(
    runs.c.id,
    runs.c.user_id,
    runs.c.session_id,
    runs.c.incarnation,
    runs.c.provider,
    runs.c.prompt,
    runs.c.state,
    runs.c.error_code,
    runs.c.error_message,
    runs.c.idempotency_key,
    runs.c.created_at,
    runs.c.started_at,
    runs.c.finished_at,
)
_EVENTS: Final = select(run_events.c.run_id, run_events.c.seq, run_events.c.type).order_by(
    run_events.c.run_id, run_events.c.seq
)
_SANDBOXES: Final = select(
    sandboxes.c.id,
    sandboxes.c.user_id,
    sandboxes.c.incarnation,
    sandboxes.c.desired,
    sandboxes.c.observed,
    sandboxes.c.reason,
    sandboxes.c.handle,
)

MARK: Final = re.compile(r"mark-[0-9a-z-]+")


@dataclass(slots=True)
class Asked:
    """One prompt, as its client saw it. ``mark`` is a word in the prompt that no other has."""

    mark: str
    user_id: str
    provider: str
    prompt: str
    session_id: str | None  # the one that was asked for; None: a new one
    run_ids: list[str] = field(default_factory=list)  # each answer's to this idempotency key
    events: list[tuple[int, str]] = field(default_factory=list)  # seq and type, in order of arrival
    session_seen: str | None = None
    state: str | None = None  # what the API said in the end
    error: str | None = None
    cancelled: bool = False
    breaks: int = 0  # connections that broke, and answers that said: later
    refused: str | None = None  # an answer that ended it without a run: status and code
    gave_up: bool = False  # no end within the client's patience
    after_the_storm: bool = False


@dataclass(frozen=True, slots=True)
class Kill:
    at: float
    victim: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One turn that reached the model."""

    began: float
    ended: float | None  # None: the model was killed under it
    whole: bool  # the model sent an answer to its end
    turn: str  # the CLI's own name for the turn or session, "" if it tells none
    user_texts: tuple[str, ...]

    @property
    def marks(self) -> list[str]:
        """Of the whole conversation, oldest first."""
        return MARK.findall("\n".join(self.user_texts))


@dataclass(frozen=True, slots=True)
class Evidence:
    asked: list[Asked]
    runs: list[dict[str, Any]]
    events: dict[str, list[tuple[int, str]]]  # by run
    sandboxes: list[dict[str, Any]]
    model: list[ModelRequest]
    containers: dict[str, str]  # the engine's: handle to state
    processes: dict[str, list[int]]  # of sandboxes, by handle, whether the engine knows it or not
    kills: list[Kill]

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def read_database(url: str) -> dict[str, Any]:
    """Rows of runs (without text), events (numbers and types) and sandboxes."""
    engine = create_engine(parse(url))
    try:
        with engine.connect() as database:
            runs = [dict(row) for row in database.execute(_RUNS).mappings()]
            sandboxes = [dict(row) for row in database.execute(_SANDBOXES).mappings()]
            events: dict[str, list[tuple[int, str]]] = {}
            for run_id, seq, kind in database.execute(_EVENTS):
                events.setdefault(run_id, []).append((seq, kind))
    finally:
        engine.dispose()
    return {"runs": runs, "events": events, "sandboxes": sandboxes}


def read_model_log(path: Path) -> list[ModelRequest]:
    began: dict[str, dict[str, Any]] = {}
    ended: dict[str, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # the line that the model was writing when it was killed
            continue
        (began if "began" in entry else ended)[entry["id"]] = entry
    return [
        ModelRequest(
            began=entry["began"],
            ended=ended[request_id]["ended"] if request_id in ended else None,
            whole=request_id in ended and ended[request_id]["whole"],
            turn=entry["turn"],
            user_texts=tuple(entry["user_texts"]),
        )
        for request_id, entry in began.items()
        if entry["kind"] == "turn" and not entry["tool_result"]
    ]


def sandbox_processes(handles: set[str], proc: Path = Path("/proc")) -> dict[str, list[int]]:
    """Processes of gVisor, and the shims above it, with one of these container ids as argument."""
    found: dict[str, list[int]] = {}
    for entry in proc.glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"runsc" not in arguments and b"containerd-shim" not in arguments:
            continue
        for handle in set(re.findall(r"[0-9a-f]{64}", arguments.decode(errors="replace"))):
            if handle in handles:
                found.setdefault(handle, []).append(int(entry.name))
    return found
