"""What agents, users and containers say must not steer the terminal of whoever reads it."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from hutch.cli import main, profile
from hutch.cli.printable import one_line, printable
from hutch.cli.run import run
from hutch.cli.tables import table
from hutch.client.events import Event, TextDelta, parse
from tests.security.conftest import Attempt

ROOT = Path(__file__).resolve().parents[2]
EVIL = (
    "\x1b[2J\x1b]0;owned\x07\x1b]52;c;cm0gLXJm\x07\x9b31m\r\x08\x7f\x1bP+q\x1b\\"
    "\u202egnp.exe\u2066\ud800 end"
)
MARK = " end"


def clean(text: str) -> bool:
    return all(c in "\n\t" or (c.isprintable() and not 0x202A <= ord(c) <= 0x202E) for c in text)


@given(st.text())
def test_nothing_that_steers_is_left(text: str) -> None:
    shown = printable(text)
    assert not any(c not in "\n\t" and (ord(c) < 32 or 127 <= ord(c) < 160) for c in shown)
    assert not {"\n", "\t", "\u2028", "\u2029"} & set(one_line(text))
    shown.encode()  # a terminal gets bytes


EVENTS: list[dict[str, Any]] = [
    {"type": "text.delta", "text": EVIL},
    {"type": "text", "text": EVIL},
    {"type": "text", "text": EVIL},
    {"type": "tool.started", "tool_id": EVIL, "kind": EVIL, "name": EVIL, "input": {EVIL: EVIL}},
    {"type": "tool.finished", "tool_id": EVIL, "ok": False, "output": EVIL},
    {"type": "queued", "reason": EVIL, "position": 1},
    {"type": "retrying", "attempt": 1, "delay_ms": 1, "status": 429, "code": EVIL},
    {"type": "agent.restarted", "reason": EVIL, "how": EVIL},
    {"type": "truncated", "scope": EVIL, "limit_bytes": 1, "dropped_bytes": 1},
    {"type": "unparsed", "line": EVIL},
    {"type": EVIL, EVIL: EVIL},
    {
        "type": "run.finished",
        "stop_reason": "error",
        "error": {"code": EVIL, "message": EVIL},
        "text": EVIL,
        "timings": {},
    },
]


class Events:
    id = "run_1"
    cancel = None

    def submit(self, *_: Any, **__: Any) -> Self:
        return self

    def with_options(self, **_: Any) -> Self:
        return self

    def follow(self, *_: Any, **__: Any) -> Self:
        return self

    def __iter__(self) -> Iterator[Event]:
        for seq, event in enumerate(EVENTS, 1):
            yield parse({"run_id": "run_1", "seq": seq, "time": 1.0, **event})


def test_an_event_with_half_a_character_is_shown_all_the_same() -> None:
    head = {"run_id": "run_1", "seq": 1, "time": 1.0}
    assert isinstance(parse({**head, "type": "text.delta", "text": EVIL}), TextDelta)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_answer_of_an_agent(
    capsys: pytest.CaptureFixture[str], attempt: Attempt, *, as_json: bool
) -> None:
    attempt.tries = "steer the terminal of `hutch run`" + (" --json" if as_json else "")
    assert run(Events(), "claude", "x", as_json=as_json) == 1  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert clean(out), repr(out)
    assert clean(err), repr(err)
    assert MARK in out
    attempt.came = "shown without control characters"


def test_a_cell_of_a_table(capsys: pytest.CaptureFixture[str], attempt: Attempt) -> None:
    attempt.tries = "forge a row of a table by a name"
    table(("name",), [[f"{EVIL}\nadmin\tyes"]])
    out = capsys.readouterr().out
    assert clean(out)
    assert len(out.strip().splitlines()) == 2  # the head, and one row
    attempt.came = "one row, in one line"


class Hostile:
    """A service each of whose answers is made of control characters, whatever is asked."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, *_: Any, **__: Any) -> Any:
        return Anything()

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: Anything()


class Anything(dict[str, Any]):
    """Has each key; a list of one where one is asked for."""

    def __missing__(self, key: str) -> Any:
        if key.endswith("s") and not key.endswith(("status", "address", "class")):
            return [Anything()]
        return EVIL

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def items(self) -> Any:
        return [(EVIL, EVIL)]

    def __format__(self, spec: str) -> str:
        return EVIL

    __str__ = __repr__ = lambda _: EVIL


COMMANDS = [
    ("admin", "users", "list"),
    ("admin", "users", "create", "x"),
    ("admin", "exits", "list"),
    ("admin", "exits", "probe", "x"),
    ("admin", "service-key"),
    ("container", "get"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_of_an_operator(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, attempt: Attempt
) -> None:
    """As far as it gets: some need numbers."""
    attempt.tries = f"steer the terminal of `hutch {' '.join(command)}`"
    monkeypatch.setattr(profile, "Client", lambda *_, **__: Hostile())
    monkeypatch.setenv("HUTCH_ADMIN_KEY", "x")
    monkeypatch.setenv("HUTCH_API_KEY", "x")
    said = CliRunner().invoke(main.app, command)
    assert clean(said.output), repr(said.output)
    assert MARK in said.output
    attempt.came = "shown without control characters"


def test_no_command_prints_what_it_was_sent_as_it_is() -> None:
    """Either by ``echo``, a table, or as JSON, which escapes."""
    for path in (ROOT / "src" / "hutch" / "cli").glob("*.py"):
        if path.name == "printable.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"typer.echo", "print"}:
                given_ = node.args[0]
                name = ast.unparse(given_.func) if isinstance(given_, ast.Call) else ""
                assert name in {"json.dumps", "json_module.dumps"}, f"{path.name}:{node.lineno}"


def test_json_escapes() -> None:
    assert clean(json.dumps(EVIL).replace("\x7f", ""))
