from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer

from hutch.cli import completion, main, prompts, servers
from hutch.cli.waiting import waiting
from hutch.client import Client
from hutch.errors import InvalidRequest
from tests.client.faulty import RUN, FaultyService, Reply

Hutch = Callable[..., int]
ROOT = Path(__file__).resolve().parents[2]


def answer(value: dict[str, Any]) -> Reply:
    return 200, {}, json.dumps(value).encode()


def refusal(status: int, code: str) -> Reply:
    error = {"code": code, "message": "No.", "hint": "Do this."}
    return status, {}, json.dumps({"error": error}).encode()


@contextmanager
def standard_input(text: str) -> Iterator[None]:
    """A real pipe: what is piped in is told from a terminal by its file."""
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    before = sys.stdin
    with os.fdopen(reading) as pipe:
        sys.stdin = pipe
        try:
            yield
        finally:
            sys.stdin = before


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (refusal(400, "invalid_request"), 2),
        (refusal(422, "credential_missing"), 2),
        (refusal(404, "not_found"), 3),
        (refusal(401, "unauthorized"), 4),
        (refusal(403, "forbidden"), 4),
        (refusal(409, "session_busy"), 5),
        (refusal(500, "internal"), 6),
        (refusal(429, "queue_full"), 7),
        ((200, {}, b"<h1>Welcome</h1>"), 6),
    ],
)
def test_exit_codes(
    connected: FaultyService,
    hutch: Hutch,
    capsys: pytest.CaptureFixture[str],
    reply: Reply,
    code: int,
) -> None:
    connected.replies["GET /v1/runs/run_1"] = [reply]
    assert hutch("runs", "show", "run_1") == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.strip()


def test_every_exit_code_is_documented() -> None:
    source = (ROOT / "src" / "hutch" / "cli" / "exit_codes.py").read_text()
    codes = set(re.findall(r"^[A-Z_]+: Final = (\d+)", source, re.MULTILINE))
    _, _, page = (ROOT / "docs" / "cli.md").read_text().partition("## Exit codes")
    assert set(re.findall(r"^\| (\d+) \|", page, re.MULTILINE)) == codes


def test_every_command_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    names = subprocess.run(
        [Path(sys.executable).with_name("hutch"), "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    commands = re.findall(r"^│ ([a-z]+)  ", names, re.MULTILINE)
    assert len(commands) > 15
    assert [name for name in commands if f"hutch {name}" not in page] == []


def test_nobody_there(
    hutch: Hutch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hutch("sessions", "list") == 4
    assert "No API key" in capsys.readouterr().err
    monkeypatch.setenv("HUTCH_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HUTCH_API_KEY", "key")
    monkeypatch.setattr("hutch.cli.profile.RETRY_FOR_S", 0)
    assert hutch("sessions", "list") == 6


def test_run_sends_what_it_was_given(
    connected: FaultyService, hutch: Hutch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture, schema = tmp_path / "a.png", tmp_path / "schema.json"
    picture.write_bytes(b"\x89PNG")
    schema.write_text('{"type": "object"}')
    options = [
        *("--model", "m", "--session", "ses_1", "--timeout", "9", "--system-prompt", "be short"),
        *("--append-system-prompt", "be kind", "--max-turns", "3", "--max-cost", "0.5"),
        *("--schema", str(schema), "--attach", str(picture), "--idempotency-key", "k"),
    ]
    with standard_input("+ a line\n"):
        assert hutch("run", "codex", "review", *options) == 0
    said = capsys.readouterr()
    assert said.out == "".join(f"{n}\u2028" for n in range(1, connected.length)) + "\n"
    assert "\x1b" not in said.out + said.err
    asked = connected.asked[0]
    assert asked.headers["idempotency-key"] == "k"
    assert asked.body == {
        "provider": "codex",
        "prompt": "review\n\n+ a line\n",
        "wait": 0,
        "model": "m",
        "session_id": "ses_1",
        "timeout_s": 9,
        "system_prompt": "be short",
        "append_system_prompt": "be kind",
        "max_turns": 3,
        "max_cost_usd": 0.5,
        "output_schema": {"type": "object"},
        "attachments": [{"name": "a.png", "media_type": "image/png", "data": "iVBORw=="}],
    }


def test_a_prompt_from_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("from a file")
    with standard_input("from a pipe"):
        assert prompts.assemble("say", [file]) == f"say\n\nfrom a pipe\n\n{file}:\n\nfrom a file"
    for alone in (None, "-"):
        with standard_input("$(id)\n"):
            assert prompts.assemble(alone, []) == "$(id)\n"
    with standard_input(""):
        assert prompts.assemble("say", []) == "say"
    with pytest.raises(InvalidRequest):
        prompts.assemble("say", [tmp_path / "not there"])


def test_a_terminal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # What has no end of its own: a terminal, /dev/null, a socket of a service manager.
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert prompts.assemble("say", []) == "say"


def test_going_on(connected: FaultyService, hutch: Hutch) -> None:
    session = {
        "id": "ses_9",
        "provider": "claude",
        "name": None,
        "forked_from": None,
        "provider_session": None,
        "created_at": RUN["created_at"],
        "last_used_at": RUN["created_at"],
    }
    connected.replies["GET /v1/sessions"] = [
        answer({"sessions": [{**session, "id": "ses_8", "provider": "codex"}, session]})
    ]
    with standard_input(""):
        assert hutch("run", "claude", "more", "--continue") == 0
    assert connected.asked[1].body["session_id"] == "ses_9"


def test_a_secret_is_no_argument(
    connected: FaultyService, hutch: Hutch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = {
        "provider": "codex",
        "kind": "api_key",
        "last_four": "cret",
        "fingerprint": "f",
        "state": "ok",
        "reason": "",
        "created_at": RUN["created_at"],
        "used_at": None,
        "last_result": None,
        "verified": None,
    }
    connected.replies["PUT /v1/credentials/codex"] = [answer(stored)]
    assert hutch("credentials", "set", "codex", "sk-secret") == 2
    assert connected.asked == []
    with standard_input("sk-secret\n"):
        assert hutch("credentials", "set", "codex") == 0
    assert connected.asked[0].body == {"kind": "api_key", "api_key": "sk-secret"}
    assert "sk-secret" not in capsys.readouterr().out
    with standard_input("\n"):
        assert hutch("credentials", "set", "codex") == 2


def test_usage_is_summed(
    connected: FaultyService, hutch: Hutch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = {"input_tokens": 10, "output_tokens": 2, "cached_tokens": 1, "cost_usd": 0.25}
    used = {**RUN, "created_at": "2999-01-01T00:00:00+00:00", "timings": {"total_ms": 1500}}
    runs = [
        {**used, "usage": tokens},
        {**used, "usage": {**tokens, "cost_usd": None}, "state": "failed"},
        {**used, "provider": "claude"},
        {**used, "created_at": "1999-01-01T00:00:00+00:00", "usage": tokens},
    ]
    connected.replies["GET /v1/runs"] = [answer({"runs": runs, "next": "run_x"})]
    assert hutch("usage", "--json") == 0
    claude, codex = json.loads(capsys.readouterr().out)
    assert (claude["runs"], claude["cost_usd"]) == (1, None)
    assert codex == {
        "provider": "codex",
        "runs": 2,
        "failed": 1,
        "seconds": 3.0,
        "cost_usd": 0.25,
        "input_tokens": 20,
        "output_tokens": 4,
        "cached_tokens": 2,
    }
    assert len(connected.asked) == 1  # what is older is not asked for


def test_tables_and_json(
    connected: FaultyService, hutch: Hutch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = answer({"runs": [{**RUN, "text": "two\nlines"}], "next": None})
    connected.replies["GET /v1/runs"] = [page, page]
    assert hutch("runs", "list") == 0
    assert "two lines" in capsys.readouterr().out
    assert hutch("runs", "list", "--json") == 0
    [shown] = json.loads(capsys.readouterr().out)
    assert (shown["id"], shown["text"]) == ("run_1", "two\nlines")
    assert hutch("runs", "show", "run_1") == 0
    assert "the end" in capsys.readouterr().out


@pytest.mark.usefixtures("connected")
def test_logs(hutch: Hutch, capsys: pytest.CaptureFixture[str]) -> None:
    assert hutch("logs", "run_1", "--json", "--after", "38") == 0
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [39, 40]
    assert hutch("logs", "run_1", "-f") == 0
    assert "39" in capsys.readouterr().out


def test_profiles(
    service: FaultyService,
    hutch: Hutch,
    capsys: pytest.CaptureFixture[str],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with standard_input("hutch_user_key\n"):
        assert hutch("profile", "add", "work", "--url", service.url) == 0
    with standard_input("other\n"):
        assert hutch("profile", "add", "home", "--url", "https://home.example.org") == 0
    file = home / "config" / "hutch" / "profiles.json"
    assert file.stat().st_mode & 0o777 == 0o600
    capsys.readouterr()
    assert hutch("profile", "list") == 0
    listed = capsys.readouterr().out
    assert re.search(r"^\*\s+home ", listed, re.MULTILINE)
    assert "hutch_user_key" not in listed
    assert hutch("--profile", "work", "runs", "show", "run_1") == 0
    assert service.asked[-1].headers["authorization"] == "Bearer hutch_user_key"
    monkeypatch.setenv("HUTCH_PROFILE", "")
    assert hutch("profile", "use", "work") == 0
    assert hutch("runs", "show", "run_1") == 0
    assert hutch("admin", "users", "list") == 4  # it has no admin key
    with standard_input("hutch_admin_key\n"):
        assert hutch("profile", "add", "work", "--url", service.url, "--admin") == 0
    service.replies["GET /v1/admin/users"] = [answer({"users": []})]
    assert hutch("admin", "users", "list") == 0
    assert service.asked[-1].headers["authorization"] == "Bearer hutch_admin_key"
    assert hutch("runs", "show", "run_1") == 0
    assert service.asked[-1].headers["authorization"] == "Bearer hutch_user_key"
    assert hutch("profile", "remove", "work") == 0
    assert hutch("profile", "use", "work") == 3
    assert hutch("runs", "show", "run_1") == 4
    file.write_text("not what it was")
    assert hutch("profile", "list") == 1


def test_a_secret_typed_at_a_prompt_is_asked_for(
    hutch: Hutch, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    asked: list[bool] = []

    def prompt(*_: object, hide_input: bool, **__: object) -> str:
        asked.append(hide_input)
        return "key"

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("typer.prompt", prompt)
    assert hutch("profile", "add", "work", "--url", "https://hutch.example.org") == 0
    assert asked == [True]


def test_the_secrets_of_an_mcp_server_are_no_arguments(
    hutch: Hutch, connected: FaultyService, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = {"name": "far", "type": "http", "command": None, "args": [], "env": [],
              "url": "https://mcp.example.org/v1", "headers": ["Authorization"],
              "created_at": "2026-01-01T00:00:00Z",
              "updated_at": "2026-01-01T00:00:00Z"}  # fmt: skip
    connected.replies["PUT /v1/mcp-servers/far"] = [answer(stored)]
    with standard_input("Bearer s3cret\n"):
        assert hutch("mcp-servers", "add", "--header", "Authorization", "far", stored["url"]) == 0
    headers = {"Authorization": "Bearer s3cret"}
    assert connected.asked[-1].body == {"url": stored["url"], "headers": headers}
    assert "s3cret" not in capsys.readouterr().out
    command = ("mcp-servers", "add", "--env", "MODE=x", "near", "python3", "-m", "notes", "--fast")
    connected.replies["PUT /v1/mcp-servers/near"] = [answer(stored)]
    assert hutch(*command) == 0
    told = {"command": "python3", "args": ["-m", "notes", "--fast"], "env": {"MODE": "x"}}
    assert connected.asked[-1].body == told
    assert hutch("mcp-servers", "add", "--env", "A=b", "far", stored["url"]) == 2


# What is no request whose answer has an end: servers, conversations, and builds on this machine.
NO_JSON = {
    *("acp", "mcp", "serve", "chat", "login", "up", "down", "setup", "demo egress"),
    *("image build", "image service", "files cat"),
    "admin audit export",  # is JSON by itself
}


def commands(group: Any, *before: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *before, name)
        else:
            yield " ".join((*before, name)), command


def test_what_asks_the_service_has_json() -> None:
    found = dict(commands(typer.main.get_command(main.app)))
    assert len(found) > 50
    lacking = {
        name
        for name, command in found.items()
        if not any("--json" in option.opts for option in command.params)
    }
    assert lacking - {"shell"} == NO_JSON


def test_what_has_no_answer_is_an_object_all_the_same(
    connected: FaultyService, hutch: Hutch, capsys: pytest.CaptureFixture[str]
) -> None:
    connected.replies["DELETE /v1/sessions/ses_1"] = [(204, {}, b""), (204, {}, b"")]
    assert hutch("sessions", "delete", "ses_1", "--json") == 0
    assert capsys.readouterr().out == "{}\n"
    assert hutch("sessions", "delete", "ses_1") == 0
    assert capsys.readouterr().out == ""


def test_version(hutch: Hutch, capsys: pytest.CaptureFixture[str]) -> None:
    assert hutch("--version") == 0
    assert capsys.readouterr().out == f"hutch {metadata.version('hutch')}\n"


def completed(line: str, shell: str) -> str:
    """As each shell's own script asks; the last word is the one under way."""
    asked = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }
    done = subprocess.run(
        [Path(sys.executable).with_name("hutch")],
        env={**os.environ, **asked[shell], "_HUTCH_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    assert "codex" in completed("hutch run c", shell)


def test_names_that_are_completed(
    connected: FaultyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected.replies["GET /v1/runs"] = [answer({"runs": [{**RUN, "id": "run_7"}], "next": None})]
    assert completion.runs() == [("run_7", "codex succeeded")]
    monkeypatch.setattr(completion, "PATIENCE_S", 0.01)
    released = threading.Event()
    late = answer({"sessions": []})
    connected.replies["GET /v1/sessions"] = [lambda: (released.wait(5), late)[1]]
    assert completion.sessions() == []
    released.set()
    for thread in threading.enumerate():
        if thread.name == "completion":
            thread.join(10)
    monkeypatch.setattr(completion, "PATIENCE_S", 10)
    monkeypatch.setenv("HUTCH_URL", "http://127.0.0.1:9")
    assert completion.runs() == []
    monkeypatch.delenv("HUTCH_URL")
    servers.save(servers.Servers({"work": servers.Server("https://hutch.example.org")}, "work"))
    assert completion.profile_names() == ["work"]


def test_ctrl_c_before_the_answer_leaves_no_run_behind(
    connected: FaultyService, hutch: Hutch, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit: Any = Client.submit
    times = 0

    def interrupted(client: Client, *arguments: Any, **options: Any) -> Any:
        nonlocal times
        begun = submit.__get__(client, Client)(*arguments, **options)
        times += 1
        if times == 1:
            raise KeyboardInterrupt
        return begun

    monkeypatch.setattr(Client, "submit", interrupted)
    with standard_input(""):
        assert hutch("run", "claude", "x") == 130
    assert [one.path for one in connected.asked] == [
        *("/v1/runs", "/v1/runs", "/v1/runs/run_1/cancel")
    ]
    assert len(connected.runs) == 1


def test_who_waits_sees_a_spinner_on_a_terminal_only(capfd: pytest.CaptureFixture[str]) -> None:
    with waiting("getting it ready"):
        pass
    assert capfd.readouterr() == ("", "")
