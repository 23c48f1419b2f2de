"""What a user sees of a turn: the answer, the memory, the tools, and the prompt as it arrives."""

from __future__ import annotations

import pytest

from hutch.api.limits import RUN_MAX_BYTES
from hutch.client import ApiError
from hutch_runtime.protocol import PROMPT_MAX_BYTES, PROVIDERS, Provider
from tests.service import Service, User, digest, fingerprint, tool_result

each_provider = pytest.mark.parametrize("provider", PROVIDERS)

# What each CLI's own tool for writing a file counts as; Codex writes by its shell.
WRITES: dict[Provider, str] = {"claude": "edit", "codex": "shell", "gemini": "edit"}


@each_provider
def test_one_turn(user: User, provider: Provider) -> None:
    run = user.run(provider, f"hello {provider}")

    assert (run["state"], run["stop_reason"], run["error"]) == ("succeeded", "end_turn", None)
    assert f'you said "hello {provider}"' in run["text"]
    assert run["usage"]["input_tokens"] > 0
    assert run["usage"]["output_tokens"] > 0
    timings = run["timings"]
    assert 0 <= timings["sandbox_ms"] <= timings["first_event_ms"] <= timings["total_ms"]
    assert run["provider_session"]
    container = user.client.container()
    assert run["cli_version"] == container["cli_versions"][provider]
    assert run["cli_version"][0].isdigit()
    assert container["isolation"] == "gvisor"
    assert container["observed"] == "running"

    log = list(user.client.follow(run["id"]))
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    assert next(e for e in log if e["type"] != "queued")["type"] == "run.started"
    assert log[-1]["type"] == "run.finished"
    assert log[-1]["text"] == run["text"]
    assert "".join(e["text"] for e in log if e["type"] == "text.delta") == run["text"]
    assert not [event for event in log if event["type"] == "unparsed"]
    assert user.client.get_run(run["id"])["prompt"] == f"hello {provider}"
    assert fingerprint(user.provider_keys[provider]) in run["text"]


@each_provider
def test_a_session_remembers(user: User, provider: Provider) -> None:
    first = user.run(provider, f"the password is {provider}-swordfish")
    second = user.run(provider, "[[recall]]", session_id=first["session_id"])
    assert f"the password is {provider}-swordfish" in second["text"].partition("earlier=")[2]
    assert second["provider_session"] == first["provider_session"]
    assert next(user.client.follow(second["id"]))["agent"] == "live"
    # And another session does not.
    other = user.run(provider, "[[recall]]")
    assert other["session_id"] != first["session_id"]
    assert "swordfish" not in other["text"]


@each_provider
def test_a_tool_writes_a_file(user: User, provider: Provider) -> None:
    path = f"/workspace/{provider}.txt"
    run = user.run(provider, f"[[tool:write {path} written by {provider}]]")
    assert run["state"] == "succeeded", run
    log = list(user.client.follow(run["id"]))
    started = [event for event in log if event["type"] == "tool.started"]
    finished = [event for event in log if event["type"] == "tool.finished"]
    assert [event["kind"] for event in started] == [WRITES[provider]]
    assert [event["ok"] for event in finished] == [True]
    assert started[0]["tool_id"] == finished[0]["tool_id"]
    assert started[0]["name"]

    shown = user.run(provider, f"[[tool:shell cat {path}; id -un]]")
    assert f"written by {provider}" in tool_result(shown["text"])
    assert "app" in tool_result(shown["text"])
    log = list(user.client.follow(shown["id"]))
    kinds = [(e["kind"], str(e["input"])) for e in log if e["type"] == "tool.started"]
    assert len(kinds) == 1
    assert kinds[0][0] == "shell"
    assert f"cat {path}" in kinds[0][1]


@each_provider
def test_a_failed_tool_call_is_told(user: User, provider: Provider) -> None:
    run = user.run(provider, "[[tool:shell cat /workspace/no-such-file; exit 3]]")
    assert run["state"] == "succeeded"
    assert "no-such-file" in tool_result(run["text"])
    # Gemini's own protocol calls a command that exits 3 a success.
    finished = [e for e in user.client.follow(run["id"]) if e["type"] == "tool.finished"]
    assert [event["ok"] for event in finished] == [provider == "gemini"]


PROMPTS = {
    "quotes": """say "it's" `now` '$(id)' "$HOME" \\ \\n %s {} <b>&amp;""",
    "newlines": "\n first\r\nsecond\n\n\tthird \n",
    "substitution": "$(touch /workspace/owned) `touch /workspace/owned` ; touch /workspace/owned",
    "control": "a\x00b\x01c\x1b[31md\x7fe\u0085f\u2028g\u2029h\ufeffi",
    "emoji": "👩‍👩‍👧‍👦 e\u0301 \U0010ffff ﷽ 日本",
    "command": "/nosuchcommand me @file #memory !ls",
}


@each_provider
@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_arrives_byte_for_byte(user: User, provider: Provider, name: str) -> None:
    prompt = PROMPTS[name]
    run = user.run(provider, prompt)
    assert run["state"] == "succeeded", run
    assert f"chars={len(prompt)} sha256={digest(prompt)}" in run["text"]
    assert user.client.get_run(run["id"])["prompt"] == prompt
    if name == "substitution":
        assert "owned" not in user.shell(provider, "ls -a /workspace /home/app")


@pytest.mark.parametrize(
    "provider",
    [
        pytest.param(
            "claude",
            marks=pytest.mark.xfail(
                reason="Claude Code takes a text that begins with one of its own commands for it"
            ),
        ),
        "codex",
        "gemini",
    ],
)
def test_a_prompt_that_is_a_command_of_the_cli_arrives(user: User, provider: Provider) -> None:
    run = user.run(provider, "/help me")
    assert f"sha256={digest('/help me')}" in run["text"]


@each_provider
def test_a_prompt_of_1_mb_arrives(user: User, provider: Provider) -> None:
    # No line twice: Gemini's CLI takes an answer that repeats itself for a loop, and breaks it off.
    lines = "".join(f"line {number}\n" for number in range(PROMPT_MAX_BYTES // 10))
    prompt = lines[: PROMPT_MAX_BYTES - 4] + "👍"
    assert len(prompt.encode()) == PROMPT_MAX_BYTES
    run = user.run(provider, prompt)
    assert run["state"] == "succeeded", run
    assert f"chars={len(prompt)} sha256={digest(prompt)}" in run["text"]


@each_provider
def test_a_prompt_of_a_byte_more_is_refused(user: User, provider: Provider) -> None:
    before = user.client.call("GET", "/v1/runs")
    with pytest.raises(ApiError) as refused:
        user.run(provider, "x" * (PROMPT_MAX_BYTES + 1))
    assert (refused.value.status, refused.value.code) == (413, "prompt_too_large")
    assert refused.value.hint
    assert user.client.call("GET", "/v1/runs") == before
    # And one that no field could make use of, before it is read to its end.
    with pytest.raises(ApiError) as refused:
        user.run(provider, "x" * (RUN_MAX_BYTES + 1))
    assert (refused.value.status, refused.value.code) == (413, "request_too_large")


@each_provider
def test_the_model_parameter_reaches_the_model(
    service: Service, user: User, provider: Provider
) -> None:
    model = {"claude": "claude-test-9", "codex": "gpt-test-9", "gemini": "gemini-test-9"}[provider]
    prompt = f"which model, {provider}?"
    run = user.run(provider, prompt, model=model)
    assert run["state"] == "succeeded", run
    assert run["model"] == model
    assert [request["model"] for request in service.model.asked(prompt)] == [model]
    # The next turn of the session may name another.
    again = user.run(provider, f"{prompt} now", model=f"{model}1", session_id=run["session_id"])
    assert again["state"] == "succeeded", again
    assert service.model.asked(f"{prompt} now")[-1]["model"] == f"{model}1"
