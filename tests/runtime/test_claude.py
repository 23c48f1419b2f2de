"""The runtime with the real Claude Code."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hutch_runtime.protocol import PROMPT_MAX_BYTES, RUN_MAX_BYTES
from hutch_runtime.providers.base import Prompt
from hutch_runtime.providers.claude import ClaudeDriver
from tests.runtime.driving import Log, make_setup
from tests.runtime.model import Model, running_model
from tests.runtime.runtime_process import Event, Runtime, in_state, running_runtime, until

# More than any test waits for.
_LONG = "[[slow:600,50]]"


@pytest.fixture(scope="module")
def model_process() -> Iterator[Model]:
    with running_model() as model:
        yield model


@pytest.fixture
def model(model_process: Model) -> Model:
    model_process.forget()
    return model_process


@pytest.fixture
async def runtime(tmp_path: Path, model: Model) -> AsyncIterator[Runtime]:
    async with running_runtime(tmp_path, model.url) as runtime:
        await runtime.ready()
        yield runtime


def _types(events: list[Event]) -> list[str]:
    return [event["type"] for event in events]


def _first(events: list[Event], kind: str) -> Event:
    return next(event for event in events if event["type"] == kind)


def _error(events: list[Event]) -> str | None:
    error: dict[str, str] | None = events[-1]["error"]
    return error["code"] if error else None


async def _until(stream: AsyncIterator[Event], kind: str) -> list[Event]:
    seen = []
    async for event in stream:
        seen.append(event)
        if event["type"] == kind:
            break
    return seen


async def test_a_turn(runtime: Runtime) -> None:
    [spare] = await runtime.agents("spare")
    events = await runtime.run("r1", "good morning")
    started = _first(events, "run.started")
    assert (started["provider"], started["agent"]) == ("claude", "warm")
    assert (started["model"], started["session"]) == (None, spare["session"])
    assert (events[-1]["stop_reason"], events[-1]["error"]) == ("end_turn", None)
    assert 'you said "good morning"' in events[-1]["text"]
    deltas = [event["text"] for event in events if event["type"] == "text.delta"]
    assert len(deltas) > 1
    assert "".join(deltas) == events[-1]["text"]
    assert _first(events, "usage")["input_tokens"] > 0
    timings = events[-1]["timings"]
    assert 0 < timings["first_event_ms"] <= timings["total_ms"] < 10_000


async def test_two_turns_of_a_session(runtime: Runtime) -> None:
    first = await runtime.run("r1", "the word is heron")
    session = first[0]["session"]
    second = await runtime.run("r2", "[[recall]]", session=session)
    assert (second[0]["agent"], second[0]["session"]) == ("live", session)
    assert "agent.restarted" not in _types(second)
    assert "the word is heron" in second[-1]["text"]
    other = await runtime.run("r3", "[[recall]]")
    assert other[0]["session"] != session
    assert "heron" not in other[-1]["text"]


async def test_a_tool_that_writes_a_file(runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "workspace" / "made.txt"
    events = await runtime.run("r1", f"[[tool:write {path} by a tool]]")
    assert path.read_text() == "by a tool"
    assert _first(events, "tool.started")["kind"] == "edit"
    assert _first(events, "tool.finished")["ok"] is True


async def test_a_tool_sees_nothing_of_ours(runtime: Runtime) -> None:
    events = await runtime.run("r1", "[[tool:shell env]]")
    seen = _first(events, "tool.finished")["output"]
    assert "CLAUDECODE=1" in seen
    assert "HUTCH_" not in seen
    assert "PYTHONPATH" not in seen


async def test_a_model_for_one_turn(runtime: Runtime, model: Model) -> None:
    first = await runtime.run("r1", "one")
    session = first[0]["session"]
    second = await runtime.run("r2", "two", session=session, model="claude-haiku-4-5")
    assert second[0]["model"] == "claude-haiku-4-5"
    await runtime.run("r3", "three", session=session)
    models = [request["model"] for request in model.requests() if request["kind"] == "turn"]
    assert models[1] == "claude-haiku-4-5"
    assert models[0] == models[2] != "claude-haiku-4-5"


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param("\"double\" 'single' `back` $(touch /x) ${HOME} \\n ; | & > <", id="shell"),
        pytest.param("tab\t\r\nnewline\x1b[31m\x07 nul \x00 end \x7f", id="control"),
        pytest.param("emoji 👩‍👩‍👧‍👦 \u202e rtl \u2028 line \ufeff bom é e\u0301", id="unicode"),
        pytest.param("--help", id="option"),
        pytest.param("/etc/passwd is a file", id="path"),
        pytest.param("  space around  \n", id="space"),
        pytest.param("x" * (PROMPT_MAX_BYTES - 9) + "\x00\U0001f600 end", id="1 MB"),
    ],
)
async def test_a_prompt_arrives_byte_for_byte(runtime: Runtime, model: Model, prompt: str) -> None:
    events = await runtime.run("r1", prompt)
    digest = hashlib.sha256(prompt.encode()).hexdigest()
    assert events[-1]["error"] is None
    assert f"sha256={digest}" in events[-1]["text"]
    assert model.requests()[-1]["text_sha256"] == digest


async def test_cancel_ends_the_turn_and_not_the_session(runtime: Runtime) -> None:
    stream = runtime.prompt("r1", f"{_LONG} the word is heron")
    seen = await _until(stream, "text.delta")
    asked = time.monotonic()
    assert (await runtime.http.post("/runs/r1/cancel")).status_code == 200
    seen += [event async for event in stream]
    assert time.monotonic() - asked < 3
    assert (seen[-1]["stop_reason"], seen[-1]["error"]) == ("cancelled", None)
    again = await runtime.http.post("/runs/r1/cancel")
    assert (again.status_code, again.json()["finished"]) == (200, True)
    after = await runtime.run("r2", "[[recall]]", session=seen[0]["session"])
    assert after[0]["agent"] == "live"
    assert "the word is heron" in after[-1]["text"]


async def test_cancel_stops_a_tool(runtime: Runtime) -> None:
    stream = runtime.prompt("r1", "[[tool:shell python3 -c 'import time; time.sleep(50)']]")
    seen = await _until(stream, "tool.started")
    await runtime.http.post("/runs/r1/cancel")
    seen += [event async for event in stream]
    assert seen[-1]["stop_reason"] == "cancelled"


async def test_a_cancel_before_the_cli_has_begun_is_not_lost(runtime: Runtime) -> None:
    stream = runtime.prompt("r1", _LONG)
    seen = await _until(stream, "run.started")
    await runtime.http.post("/runs/r1/cancel")
    asked = time.monotonic()
    seen += [event async for event in stream]
    assert seen[-1]["stop_reason"] == "cancelled"
    assert time.monotonic() - asked < 3
    after = await runtime.run("r2", "still there?", session=seen[0]["session"])
    assert after[0]["agent"] == "live"


async def test_a_cancel_in_the_same_moment_as_the_prompt(tmp_path: Path, model: Model) -> None:
    agent = await ClaudeDriver(make_setup("claude", tmp_path, model.url)).spare()
    try:
        # With a model to set first, so that the interrupt comes before the prompt for sure.
        turn = asyncio.ensure_future(agent.prompt(Prompt(_LONG, "claude-haiku-4-5"), Log()))
        await asyncio.sleep(0)
        await agent.cancel()  # the CLI answers this interrupt, and forgets it
        assert (await asyncio.wait_for(turn, 5)).stop_reason == "cancelled"
    finally:
        await agent.close()


async def test_an_agent_that_does_not_obey_is_ended(runtime: Runtime) -> None:
    stream = runtime.prompt("r1", _LONG)
    seen = await _until(stream, "text.delta")
    [busy] = await runtime.agents("busy")
    os.kill(busy["pid"], signal.SIGSTOP)
    await runtime.http.post("/runs/r1/cancel")
    asked = time.monotonic()
    seen += [event async for event in stream]
    assert seen[-1]["stop_reason"] == "cancelled"
    assert 4 < time.monotonic() - asked < 9
    after = await runtime.run("r2", "[[recall]]", session=seen[0]["session"])
    assert after[0]["agent"] == "resumed"


async def test_an_agent_killed_between_turns_is_resumed(runtime: Runtime) -> None:
    first = await runtime.run("r1", "the word is heron")
    session = first[0]["session"]
    [idle] = await runtime.agents("idle")
    os.kill(idle["pid"], signal.SIGKILL)
    # Noticed with nobody asking anything of it.
    ended = in_state(await until(lambda health: in_state(health, "ended"), runtime), "ended")
    assert (ended[0]["session"], ended[0]["reason"]) == (session, "killed by SIGKILL")
    second = await runtime.run("r2", "[[recall]]", session=session)
    assert (second[0]["agent"], second[1]["type"]) == ("resumed", "agent.restarted")
    assert (second[1]["how"], second[1]["reason"]) == ("resumed", "killed by SIGKILL")
    assert "the word is heron" in second[-1]["text"]
    assert await runtime.agents("ended") == []


async def test_an_agent_killed_in_its_turn(runtime: Runtime) -> None:
    stream = runtime.prompt("r1", f"{_LONG} the word is heron")
    seen = await _until(stream, "text.delta")
    await asyncio.sleep(0.5)  # until the CLI has written the prompt down
    [busy] = await runtime.agents("busy")
    killed = time.monotonic()
    os.kill(busy["pid"], signal.SIGKILL)
    seen += [event async for event in stream]
    assert time.monotonic() - killed < 2
    assert (seen[-1]["stop_reason"], _error(seen)) == ("error", "agent_died")
    assert "SIGKILL" in seen[-1]["error"]["message"]
    second = await runtime.run("r2", "[[recall]]", session=seen[0]["session"])
    assert second[0]["agent"] == "resumed"
    assert "the word is heron" in second[-1]["text"]


async def test_an_agent_killed_before_it_wrote_anything_down(runtime: Runtime) -> None:
    stream = runtime.prompt("r1", _LONG)
    seen = await _until(stream, "run.started")
    [busy] = await runtime.agents("busy")
    os.kill(busy["pid"], signal.SIGKILL)
    seen += [event async for event in stream]
    assert _error(seen) == "agent_died"
    session = seen[0]["session"]
    second = await runtime.run("r2", "still there?", session=session)
    assert (second[0]["session"], second[-1]["stop_reason"]) == (session, "end_turn")
    third = await runtime.run("r3", "[[recall]]", session=session)
    assert "still there?" in third[-1]["text"]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "provider_bad_request"),
        (401, "provider_auth"),
        (403, "provider_auth"),
        (404, "model_not_found"),
        (429, "provider_rate_limited"),
        (500, "provider_overloaded"),
        (529, "provider_overloaded"),
    ],
)
async def test_model_errors(runtime: Runtime, status: int, code: str) -> None:
    events = await runtime.run("r1", f"[[status:{status}]]")
    assert (events[-1]["stop_reason"], _error(events)) == ("error", code)
    if status in {429, 529}:
        assert _first(events, "retrying")["status"] == status
    after = await runtime.run("r2", "and now?", session=events[0]["session"])
    assert (after[0]["agent"], after[-1]["stop_reason"]) == ("live", "end_turn")


async def test_a_gateway_that_is_not_there(tmp_path: Path) -> None:
    async with running_runtime(tmp_path, "http://127.0.0.1:9") as runtime:
        await runtime.ready()
        events = await runtime.run("r1", "hello?")
    assert _error(events) == "provider_unreachable"


async def test_reading_on_in_the_middle(runtime: Runtime) -> None:
    stream = runtime.prompt("r1", "[[slow:60,50]]")
    seen = await _until(stream, "text.delta")
    await stream.aclose()  # the client goes away; the run does not
    rest = await runtime.follow("r1", after=seen[-1]["seq"])
    assert [event["seq"] for event in seen + rest] == list(range(1, len(seen) + len(rest) + 1))
    assert rest[-1]["stop_reason"] == "end_turn"
    assert await runtime.follow("r1") == seen + rest
    assert await runtime.follow("r1", after=rest[-1]["seq"]) == []


async def test_the_same_run_twice_is_one_run(runtime: Runtime, model: Model) -> None:
    one, two = await asyncio.gather(
        runtime.run("r1", "[[slow:10,50]] once"), runtime.run("r1", "[[slow:10,50]] once")
    )
    assert one == two == await runtime.run("r1", "[[slow:10,50]] once")
    assert len(model.requests()) == 1


async def test_a_busy_session_refuses(runtime: Runtime) -> None:
    stream = runtime.prompt("r1", _LONG)
    seen = await _until(stream, "text.delta")
    body = {"run_id": "r2", "prompt": "x", "session": seen[0]["session"]}
    answer = await runtime.http.post("/claude", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "session_busy")
    await runtime.http.post("/runs/r1/cancel")
    assert [event async for event in stream][-1]["stop_reason"] == "cancelled"


@pytest.mark.parametrize("session", ["3b3a1d0e-0000-4000-8000-000000000000", "no-uuid"])
async def test_a_session_that_is_not_there(runtime: Runtime, session: str) -> None:
    events = await runtime.run("r1", "hello?", session=session)
    assert _error(events) == "session_not_found"


async def test_more_output_than_a_run_may_have(runtime: Runtime) -> None:
    events = await runtime.run("r1", "[[text:9000000]]")
    assert events[-1]["stop_reason"] == "end_turn"
    assert {event["scope"] for event in events if event["type"] == "truncated"} >= {"run"}
    size = sum(len(event.get("text", "")) for event in events)
    assert RUN_MAX_BYTES / 2 < size < 2 * RUN_MAX_BYTES


async def test_clear_does_not_lose_the_session(runtime: Runtime) -> None:
    first = await runtime.run("r1", "the word is heron")
    session = first[0]["session"]
    await runtime.run("r2", "/clear", session=session)
    third = await runtime.run("r3", "[[recall]]", session=session)
    assert "the word is heron" in third[-1]["text"]


async def test_at_most_two_processes_wait(runtime: Runtime) -> None:
    sessions = [(await runtime.run(f"r{number}", "hello"))[0]["session"] for number in range(3)]
    await until(lambda health: in_state(health, "spare"), runtime)  # a new one: nothing runs
    [idle] = await runtime.agents("idle")
    assert idle["session"] == sessions[-1]
    again = await runtime.run("r9", "[[recall]]", session=sessions[0])
    assert again[0]["agent"] == "resumed"


async def test_an_idle_agent_is_ended_and_its_session_is_not(tmp_path: Path, model: Model) -> None:
    async with running_runtime(tmp_path, model.url, prewarm="", HUTCH_AGENT_IDLE_S="1") as runtime:
        first = await runtime.run("r1", "the word is heron")
        assert first[0]["agent"] == "started"
        await until(lambda health: not in_state(health, "idle"), runtime)
        second = await runtime.run("r2", "[[recall]]", session=first[0]["session"])
    assert second[0]["agent"] == "resumed"
    assert "the word is heron" in second[-1]["text"]


async def test_ending_in_the_middle_of_a_run(tmp_path: Path, model: Model) -> None:
    async with running_runtime(tmp_path, model.url) as runtime:
        stream = runtime.prompt("r1", _LONG)
        seen = await _until(stream, "text.delta")
        [busy] = await runtime.agents("busy")
        runtime.process.terminate()
        seen += [event async for event in stream]
        assert _error(seen) == "agent_died"
        await asyncio.wait_for(runtime.process.wait(), 8)
    with pytest.raises(ProcessLookupError):
        os.kill(busy["pid"], 0)


async def test_getting_ready_asks_nobody_and_leaves_no_trace(
    runtime: Runtime, model: Model
) -> None:
    assert model.requests() == []
    assert "earlier=[]" in (await runtime.run("r1", "[[recall]]"))[-1]["text"]


async def test_a_rehearsal_is_the_first_agents_alone_and_leaves_no_trace(
    tmp_path: Path, model: Model
) -> None:
    model.refuse()  # as the gateway does for a sandbox of nobody
    async with running_runtime(tmp_path, model.url, HUTCH_REHEARSE="1") as runtime:
        await runtime.ready()
        assert [request["status"] for request in model.requests()] == [403]
        model.forget()
        assert "earlier=[]" in (await runtime.run("r1", "[[recall]]"))[-1]["text"]
        model.forget()
        while not await runtime.agents("spare"):
            await asyncio.sleep(0.02)
        assert model.requests() == []
