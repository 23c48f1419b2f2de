"""What somebody at a terminal is asked, and what cannot be asked there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hutch.cli import approvals
from hutch.cli.approvals import Asking
from hutch.cli.questions import lines
from hutch.cli.run import Plain
from hutch.client import Client
from hutch.client.events import parse
from tests.cli.test_commands import answer, refusal
from tests.client.faulty import FaultyService

Hutch = Callable[..., int]
WHERE = "/v1/runs/run_1/approvals"
WAITING: dict[str, Any] = {
    "id": "apr_1",
    "run_id": "run_1",
    "tool_id": "t1",
    "kind": "shell",
    "name": "Bash",
    "input": {"command": "touch x"},
    "diff": None,
    "truncated": False,
    "requested_at": "2026-01-01T00:00:00.000+00:00",
    "expires_at": "2026-01-01T00:05:00.000+00:00",
    "decision": None,
    "by": None,
    "decided_at": None,
}
DECIDED = {**WAITING, "decision": "allow", "by": "user"}
EVENT = parse(
    {
        **{name: WAITING[name] for name in ("tool_id", "kind", "name", "input", "diff")},
        "run_id": "run_1",
        "seq": 1,
        "time": 1.0,
        "type": "approval.requested",
        "approval_id": "apr_1",
        "truncated": False,
        "timeout_s": 300,
    }
)


def asked(connected: FaultyService, *typed: str, waiting: dict[str, Any] = WAITING) -> list[Any]:
    """The decisions that are sent when that is typed; "" is Ctrl-D."""
    told: Iterator[str] = iter(typed)

    def ask() -> str:
        line = next(told)
        if not line:
            raise EOFError
        return line + "\n"

    connected.replies[f"GET {WHERE}"] = [answer({"approvals": [waiting]})]
    connected.replies[f"POST {WHERE}/apr_1"] = [answer(DECIDED)]
    with Client(connected.url, "key") as client:
        show = Asking(Plain(), client, ask)
        show.event(EVENT)
        show.close()
    return [one.body["decision"] for one in connected.asked if one.method == "POST"]


@pytest.mark.parametrize(
    ("typed", "decision"),
    [
        (("y",), "allow"),
        (("what?", "", "y"), "deny"),
        (("NO",), "deny"),
        (("perhaps", "always"), "always"),
    ],
)
def test_what_is_typed_is_decided(
    connected: FaultyService,
    typed: tuple[str, ...],
    decision: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert asked(connected, *typed) == [decision]
    assert "touch x" in capsys.readouterr().err


def test_nobody_is_asked_about_what_is_decided(connected: FaultyService) -> None:
    assert asked(connected, waiting=DECIDED) == []


def test_another_who_was_faster_ends_nothing(
    connected: FaultyService, capsys: pytest.CaptureFixture[str]
) -> None:
    connected.replies[f"GET {WHERE}"] = [answer({"approvals": [WAITING]})]
    connected.replies[f"POST {WHERE}/apr_1"] = [refusal(409, "approval_decided")]
    with Client(connected.url, "key") as client:
        Asking(Plain(), client, lambda: "y").event(EVENT)
    assert "approval_decided" in capsys.readouterr().err


def test_where_nobody_sits_what_a_run_asks_by_itself_is_left_to_others(
    connected: FaultyService,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(approvals, "_TERMINAL", tmp_path / "none")
    with Client(connected.url, "key") as client:
        Asking(Plain(), client, None).event(EVENT)
    assert connected.asked == []
    assert "run_1 apr_1" in capsys.readouterr().err


def test_where_nobody_sits_the_run_is_refused_before_it_begins(
    connected: FaultyService,
    hutch: Hutch,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(approvals, "_TERMINAL", Path("/nonexistent"))
    assert hutch("run", "codex", "x", "--permission-mode", "ask") == 2
    assert "there is no terminal" in capsys.readouterr().err
    assert connected.asked == []
    # A program reads the events, and decides in its own way.
    more = ("--approval-timeout", "9", "--json")
    assert hutch("run", "codex", "x", "--permission-mode", "ask", *more) == 0
    assert connected.asked[0].body["permission_mode"] == "ask"
    assert connected.asked[0].body["approval_timeout_s"] == 9


def test_deciding_from_elsewhere(
    connected: FaultyService, hutch: Hutch, capsys: pytest.CaptureFixture[str]
) -> None:
    connected.replies[f"GET {WHERE}"] = [
        answer({"approvals": [WAITING, DECIDED]}),
        answer({"approvals": [WAITING, {**WAITING, "id": "apr_2"}]}),
        answer({"approvals": [{**DECIDED, "name": "Ba\x1bsh"}]}),
        answer({"approvals": [WAITING]}),
    ]
    connected.replies[f"POST {WHERE}/apr_1"] = [answer(DECIDED), answer(DECIDED)]
    assert hutch("runs", "approve", "run_1", "--always") == 0
    assert hutch("runs", "deny", "run_1") == 2
    assert "apr_1, apr_2" in capsys.readouterr().err
    assert hutch("runs", "deny", "run_1", "apr_1") == 0
    assert hutch("runs", "approvals", "run_1") == 0
    said = capsys.readouterr().out
    assert "allow, by user" in said
    assert "\x1b" not in said
    assert hutch("runs", "approvals", "run_1", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["id"] == "apr_1"
    decisions = [one.body["decision"] for one in connected.asked if one.method == "POST"]
    assert decisions == ["always", "deny"]


def test_nothing_that_is_asked_looks_like_something_else() -> None:
    def shown(given: dict[str, Any], diff: str | None = None) -> list[str]:
        told = lines("shell", "Bash\n? read Read", given, diff, truncated=False)
        return [line for line, _ in told]

    assert shown({"command": "echo a\necho b"}) == [
        "? shell Bash ? read Read",
        "  echo a",
        "  echo b",
    ]
    hidden = shown({"command": "rm -rf . \x1b[2K\recho hello"})
    assert any("\\u001b[2K\\recho" in line for line in hidden)
    turned = shown({"command": "echo \u202egnihton"})
    assert not any("\u202e" in line for line in turned)
    assert "  {" in shown({"command": "ls", "cwd": "/"})
    assert shown({"path": "x"}, "-a\n+b\n")[1:] == ["  -a", "  +b"]
    cut = lines("edit", "Write", {}, "+b\n", truncated=True)[-1][0]
    assert "left out" in cut
