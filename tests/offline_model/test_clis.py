"""The real CLIs against the offline model: what makes it more than a mock of our own ideas."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Any

import httpx2
import pytest

from hutch.offline_model.behaviour import LABEL
from hutch_runtime.protocol import PROVIDERS, Provider
from tests.offline_model.drive import KEY, Cli


@pytest.fixture(params=PROVIDERS)
def cli(request: pytest.FixtureRequest, http: httpx2.Client, tmp_path: Path) -> Cli:
    provider: Provider = request.param
    return Cli(provider, str(http.base_url).rstrip("/"), tmp_path)


def turns(http: httpx2.Client) -> list[dict[str, Any]]:
    recorded = http.get("/_control/requests").json()["requests"]
    return [request for request in recorded if request["kind"] == "turn"]


def test_a_prompt_arrives_byte_for_byte(cli: Cli, http: httpx2.Client) -> None:
    prompt = 'say "hi" it\'s $(id) `id` \\n\nsecond line 🦦 <b>&amp;</b>'
    outcome = cli.run(prompt)
    assert outcome.returncode == 0, outcome.output
    text = outcome.text(cli.provider)
    assert text.startswith(LABEL)
    assert f"sha256={hashlib.sha256(prompt.encode()).hexdigest()}" in text
    assert f"key={hashlib.sha256(KEY.encode()).hexdigest()[:8]}" in text
    assert len(turns(http)) == 1


def test_a_megabyte_by_stdin(cli: Cli, http: httpx2.Client) -> None:
    prompt = secrets.token_hex(512 * 1024)
    outcome = cli.run(prompt, by_stdin=True)
    assert outcome.returncode == 0, outcome.output
    # Not from its answer: Gemini CLI echoes the prompt, and was seen to end before that was out.
    [turn] = turns(http)
    assert turn["text_chars"] == len(prompt)
    assert turn["text_sha256"] == hashlib.sha256(prompt.encode()).hexdigest()


def test_a_tool_call_writes_a_file_and_is_answered(cli: Cli, http: httpx2.Client) -> None:
    path = cli.workspace / "made.txt"
    outcome = cli.run(f"[[tool:write {path} it's $(not run)]]")
    assert outcome.returncode == 0, outcome.output
    assert path.read_text() == "it's $(not run)"
    assert "tool_result=" in outcome.text(cli.provider)
    assert len(turns(http)) == 2


def test_a_relative_path_lands_in_the_workspace(cli: Cli) -> None:
    outcome = cli.run("[[tool:write sub/made.txt here]]")
    assert outcome.returncode == 0, outcome.output
    assert (cli.workspace / "sub" / "made.txt").read_text() == "here"


def test_a_shell_call_returns_its_output(cli: Cli) -> None:
    # No $(…), $((…)): the Gemini CLI refuses them in a shell call, even in yolo mode.
    outcome = cli.run("[[tool:shell expr 6 \\* 7; pwd]]")
    assert outcome.returncode == 0, outcome.output
    result = outcome.text(cli.provider).partition("tool_result=")[2]
    assert "42" in result
    assert str(cli.workspace) in result


def test_reasoning_is_accepted(cli: Cli) -> None:
    outcome = cli.run("think [[reasoning]]")
    assert outcome.returncode == 0, outcome.output
    assert outcome.text(cli.provider).startswith(LABEL)


def test_a_resumed_session_knows_its_first_turn(cli: Cli) -> None:
    assert cli.run("my first words").returncode == 0
    outcome = cli.run("what did I say? [[recall]]", resume=True)
    assert outcome.returncode == 0, outcome.output
    assert 'earlier=["my first words"]' in outcome.text(cli.provider)


@pytest.mark.parametrize("status", [401, 404, 429, 529])
def test_a_model_error_fails_the_prompt(cli: Cli, http: httpx2.Client, status: int) -> None:
    outcome = cli.run(f"[[status:{status}]]")
    assert outcome.returncode != 0, outcome.output
    real = 503 if status == 529 and cli.provider != "claude" else status
    assert {turn["status"] for turn in turns(http)} == {real}
    said = {
        "claude": f'"api_error_status":{real}',
        "codex": '"type":"turn.failed"',
        "gemini": '"status":"error"',
    }
    assert said[cli.provider] in outcome.output


def test_after_an_error_the_same_prompt_works(cli: Cli, http: httpx2.Client) -> None:
    http.post("/_control/behaviour", json={"match": "shaky", "status": 429, "times": 1})
    assert cli.run("shaky start").returncode != 0
    assert cli.run("shaky start").returncode == 0
