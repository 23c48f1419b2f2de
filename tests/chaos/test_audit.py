"""The auditor finds what is planted, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chaos.audit import Kind, audit
from chaos.evidence import Asked, Evidence, Kill, ModelRequest
from chaos.kills import ENGINES, WEIGHTS, schedule

EVENTS = [(1, "run.started"), (2, "text.delta"), (3, "run.finished")]
HANDLE = "a" * 64


def run(mark: str, **values: Any) -> dict[str, Any]:
    return {
        "id": f"run_{mark}",
        "prompt": f"{mark} [[slow:5,20]]",
        "state": "succeeded",
        "error_code": None,
        "error_message": None,
        **values,
    }


def asked(mark: str, **values: Any) -> Asked:
    one = Asked(mark, "usr_1", "codex", mark, None, [f"run_{mark}"], list(EVENTS), "ses_1")
    one.state = "succeeded"
    for name, value in values.items():
        setattr(one, name, value)
    return one


def request(*marks: str, began: float = 100.0, **values: Any) -> ModelRequest:
    made = ModelRequest(began, began + 1, whole=True, turn="turn-1", user_texts=marks)
    return replace(made, **values)


def sandbox(**values: Any) -> dict[str, Any]:
    ours = {"id": "sbx_1", "desired": "running", "observed": "running", "handle": HANDLE}
    return {**ours, **values}


def calm() -> Evidence:
    """Two prompts of one session, all in order."""
    return Evidence(
        asked=[asked("mark-1-0-0"), asked("mark-1-0-1", run_ids=["run_mark-1-0-1"] * 2)],
        runs=[run("mark-1-0-0"), run("mark-1-0-1")],
        events={"run_mark-1-0-0": list(EVENTS), "run_mark-1-0-1": list(EVENTS)},
        sandboxes=[sandbox(), sandbox(id="sbx_0", observed="destroyed", handle="b" * 64)],
        model=[request("mark-1-0-0"), request("mark-1-0-0", "mark-1-0-1", began=110.0)],
        containers={HANDLE: "running"},
        processes={HANDLE: [41, 42]},
        kills=[],
    )


def test_nothing_is_found_where_nothing_is() -> None:
    assert audit(calm()) == []


def _client(evidence: Evidence, **seen: Any) -> None:
    for name, value in seen.items():
        setattr(evidence.asked[0], name, value)


def _second_run(evidence: Evidence) -> None:
    evidence.runs.append(run("mark-1-0-0", id="run_other"))
    evidence.events["run_other"] = list(EVENTS)


def _again(evidence: Evidence, **values: Any) -> None:
    """The first prompt reaches the model once more, after an answer that broke off."""
    evidence.model[0] = replace(evidence.model[0], whole=False)
    evidence.model.append(request("mark-1-0-0", **{"began": 102.0, **values}))


def _said(evidence: Evidence, events: list[tuple[int, str]]) -> None:
    evidence.asked[0].events = events
    evidence.events["run_mark-1-0-0"] = events


FAULTS: dict[str, tuple[Kind, Callable[[Evidence], Any]]] = {
    "a run that no row knows": ("lost", lambda e: e.runs.pop(0)),
    "a prompt never accepted": ("lost", lambda e: e.asked[0].run_ids.clear()),
    "a session that forgot": (
        "lost",
        lambda e: e.model.__setitem__(1, request("mark-1-0-1", began=110.0)),
    ),
    "a success without the model": ("lost", lambda e: e.model.pop(0)),
    "two runs for one key": ("doubled", lambda e: e.asked[0].run_ids.append("run_other")),
    "two runs of one prompt": ("doubled", _second_run),
    "asked again after a whole answer": (
        "doubled",
        lambda e: e.model.append(request("mark-1-0-0", began=102.0)),
    ),
    "sent again to another agent": ("doubled", lambda e: _again(e, turn="turn-2")),
    "sent again in the same session": (
        "doubled",
        lambda e: _again(e, user_texts=("mark-1-0-0", "mark-1-0-0")),
    ),
    "started twice": (
        "doubled",
        lambda e: _said(e, [(1, "run.started"), (2, "run.started"), (3, "run.finished")]),
    ),
    "a container without a row": ("orphan", lambda e: e.containers.update({"c" * 64: "exited"})),
    "a container of an ended row": ("orphan", lambda e: e.containers.update({"b" * 64: "running"})),
    "processes without a container": ("orphan", lambda e: e.processes.update({"b" * 64: [43]})),
    "a run without an end": ("stuck", lambda e: e.runs[0].update(state="running")),
    "a client that waits for ever": ("stuck", lambda e: _client(e, gave_up=True)),
    "a row without a container": ("stuck", lambda e: e.containers.clear()),
    "a row with a dead container": ("stuck", lambda e: e.containers.update({HANDLE: "exited"})),
    "a row on its way to its end": ("stuck", lambda e: e.sandboxes[0].update(desired="destroyed")),
    "a gap": ("stream", lambda e: _said(e, [(1, "run.started"), (3, "run.finished")])),
    "a repetition": ("stream", lambda e: _said(e, [EVENTS[0], EVENTS[0], *EVENTS[1:]])),
    "no end": ("stream", lambda e: _said(e, EVENTS[:-1])),
    "two ends": ("stream", lambda e: _said(e, [*EVENTS, (4, "run.finished")])),
    "words after the end": ("stream", lambda e: _said(e, [*EVENTS, (4, "text.delta")])),
    "seen, and not stored": (
        "stream",
        lambda e: _client(e, events=[*EVENTS[:1], (2, "text"), *EVENTS[2:]]),
    ),
    "a refusal": ("wrong", lambda e: _client(e, refused="500 internal")),
    "a bug's code": (
        "wrong",
        lambda e: e.runs[0].update(state="failed", error_code="runtime_error"),
    ),
    "cancelled by nobody": ("wrong", lambda e: _client(e, state="cancelled")),
    "ill after the storm": (
        "wrong",
        lambda e: _client(e, after_the_storm=True, state="failed"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_planted_fault_is_found(fault: str) -> None:
    kind, plant = FAULTS[fault]
    evidence = calm()
    plant(evidence)
    assert kind in {finding.kind for finding in audit(evidence)}


def test_a_cli_may_ask_again_by_itself() -> None:
    evidence = calm()
    _again(evidence)
    assert audit(evidence) == []


def test_an_answer_that_was_on_its_way_when_the_gateway_died_may_be_asked_for_again() -> None:
    evidence = calm()
    _again(evidence)
    evidence.model[0] = replace(evidence.model[0], whole=True)
    assert [finding.kind for finding in audit(evidence)] == ["doubled"]
    evidence.kills.append(Kill(101.2, "gateway"))
    assert audit(evidence) == []


def test_a_seed_is_a_schedule() -> None:
    first = list(schedule(7, 300, mean_s=4, spared=()))
    assert first == list(schedule(7, 300, mean_s=4, spared=()))
    assert first != list(schedule(8, 300, mean_s=4, spared=()))
    assert {planned.victim for planned in first} == set(WEIGHTS)
    spared = schedule(7, 300, mean_s=4, spared=ENGINES)
    assert not ENGINES & {planned.victim for planned in spared}
