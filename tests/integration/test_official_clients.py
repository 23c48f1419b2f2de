"""Others' clients, as their makers publish them, against the compatible endpoints and real CLIs.

Each program of ``tests/official_clients`` tells what its client made of the answers.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.official_clients.running import PYTHON, run, seen_by
from tests.service import Service, User


@pytest.fixture
def ours(service: Service, user: User) -> dict[str, str]:
    return {"HUTCH_URL": service.url, "HUTCH_API_KEY": user.key}


def tools_of(whole: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(tool["kind"], tool["ok"]) for tool in whole["hutch"]["tools"]]


def assert_called(told: list[str]) -> None:
    assert (told[0], told[-1]) == ("tool.started", "tool.finished")


@pytest.mark.parametrize("program", ["with_openai.py", "with_openai.js"])
def test_openai(ours: dict[str, str], program: str) -> None:
    seen = seen_by(program, **ours)
    assert {"claude", "codex", "gemini"} <= set(seen["models"])
    whole = seen["whole"]
    assert "whole" in whole["choices"][0]["message"]["content"]
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert whole["usage"]["total_tokens"] > whole["usage"]["completion_tokens"] > 0
    assert tools_of(whole) == [("shell", True)]
    assert "echo whole" in seen["by_user"].partition("earlier=")[2]
    assert "first of the name" in seen["named"][-1].partition("earlier=")[2]
    streamed = seen["streamed"]
    assert "by chat" in streamed["text"]
    assert_called(streamed["tools"])
    assert streamed["usage"]["total_tokens"] > 0
    assert 'you said "in a response"' in seen["response"]["output"][0]["content"][0]["text"]
    assert "in a response" in seen["responded_next"].partition("earlier=")[2]
    assert "echo" in seen["streamed_response"]["text"]
    assert_called(seen["streamed_response"]["tools"])
    assert seen["streamed_response"]["status"] == "completed"
    if program.endswith(".py"):
        assert seen["formed"] == ["Hutch offline model"] * 2
        assert ".png" in seen["looked_at"].partition("tool_result=")[2]
    assert seen["refused"] == [
        {"as": "AuthenticationError", "status": 401, "code": "unauthorized"},
        {"as": "NotFoundError", "status": 404, "code": "model_not_found"},
        {"as": "BadRequestError", "status": 400, "code": "unsupported_parameter"},
        {"as": "RateLimitError", "status": 429, "code": "provider_rate_limited"},
        {"as": "NotFoundError", "status": 404, "code": "not_found"},
    ]


def test_anthropic(ours: dict[str, str]) -> None:
    seen = seen_by("with_anthropic.py", **ours)
    whole = seen["whole"]
    assert "tool_result" in whole["content"][0]["text"]
    assert whole["stop_reason"] == "end_turn"
    assert whole["usage"]["output_tokens"] > 0
    assert tools_of(whole) == [("shell", True)]
    assert "first of the name" in seen["named"][-1].partition("earlier=")[2]
    assert "by stream" in seen["streamed"]["text"]
    assert tools_of(seen["streamed"]) == [("shell", True)]
    assert seen["streamed"]["usage"]["output_tokens"] > 0
    assert seen["formed"] == "Hutch offline model"
    assert "[Image: source" in seen["looked_at"]  # Claude Code's own words beside an image
    limited = ("RateLimitError", 429, "rate_limit_error", "provider_rate_limited")
    assert [tuple(one[k] for k in ("as", "status", "type", "code")) for one in seen["refused"]] == [
        ("AuthenticationError", 401, "authentication_error", "unauthorized"),
        ("NotFoundError", 404, "not_found_error", "model_not_found"),
        ("BadRequestError", 400, "invalid_request_error", "unsupported_parameter"),
        limited,
        ("BadRequestError", 400, "invalid_request_error", "unsupported_parameter"),
    ]


def test_litellm(ours: dict[str, str]) -> None:
    # Else it asks the internet for prices before it does anything.
    seen = seen_by("with_litellm.py", **ours, LITELLM_LOCAL_MODEL_COST_MAP="True")
    whole = seen["whole"]
    assert "tool_result" in whole["choices"][0]["message"]["content"]
    assert whole["usage"]["total_tokens"] > 0
    assert tools_of(whole) == [("shell", True)]
    assert "first of the name" in seen["named"][-1].partition("earlier=")[2]
    assert 'you said "by litellm"' in seen["streamed"]["text"]
    assert seen["streamed"]["usage"]["total_tokens"] > 0
    assert seen["refused"] == [
        {"as": "AuthenticationError", "status": 401},
        {"as": "NotFoundError", "status": 404},
        {"as": "BadRequestError", "status": 400},
        {"as": "RateLimitError", "status": 429},
    ]


def test_llm(ours: dict[str, str], tmp_path: Path) -> None:
    """Simon Willison's command line, which sends the whole conversation each time."""
    base = f"{ours['HUTCH_URL']}/v1"
    models = [
        {"model_id": f"hutch-{name}", "model_name": name, "api_base": base, "api_key_name": "hutch"}
        for name in ("codex", "llama")
    ]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))  # which is YAML

    def llm(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = (str(PYTHON.with_name("llm")), *arguments, "--key", ours["HUTCH_API_KEY"])
        return run(*argv, LLM_USER_PATH=str(tmp_path))

    first = llm("-m", "hutch-codex", "[[tool:shell echo by llm]]", "--usage")
    assert "by llm" in first.stdout, first.stderr
    assert "input" in first.stderr
    more = llm("--continue", "--no-stream", "what did I say?")
    assert "by llm" in more.stdout, more.stderr
    limited = llm("-m", "hutch-codex", "[[status:429]] of llm")
    assert (limited.returncode, limited.stdout) == (1, "")
    assert "429 Too Many Requests" in limited.stderr
    unknown = llm("-m", "hutch-llama", "x")
    assert (unknown.returncode, "no such model" in unknown.stderr) == (1, True)


def test_a_client_does_not_repeat_what_an_agent_has_begun(service: Service) -> None:
    """Run after those above: each asked for it once."""
    for client in ("python", "node", "anthropic", "litellm", "llm"):
        assert len(service.model.asked(f"[[status:429]] of {client}")) == 1, client
