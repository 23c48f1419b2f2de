"""What a run may ask for besides its prompt, with the real CLIs; and forks of their sessions."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from hutch_runtime.protocol import PROVIDERS, Provider
from tests.runtime.model import Model, running_model
from tests.runtime.runtime_process import Event, Runtime, running_runtime

PNG = (  # one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwAD"
    "hgGAWjR9awAAAABJRU5ErkJggg=="
)
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["name", "count"],
        "additionalProperties": False,
    }
)
FORKING: tuple[Provider, ...] = ("claude", "codex")


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
    async with running_runtime(tmp_path, model.url, prewarm="") as runtime:
        yield runtime


def said_of_the_system(model: Model) -> str:
    """In the last turn: what is neither a user's nor an assistant's."""
    bodies = map(json.loads, model.bodies())
    body = [body for body in bodies if body.get("tools") or "input" in body][-1]
    told = [body.get("system"), body.get("instructions")]
    told += [item for item in body.get("input", []) if item.get("role") == "developer"]
    return json.dumps(told)


@pytest.mark.parametrize("provider", FORKING)
async def test_a_session_has_the_instructions_that_it_began_with(
    runtime: Runtime, model: Model, provider: Provider
) -> None:
    options = {"system_prompt": "BE AN OTTER", "append_system_prompt": "AND SWIM"}
    events = await runtime.run("r1", "hello", provider=provider, options=options)
    assert events[-1]["stop_reason"] == "end_turn"
    said = said_of_the_system(model)
    assert "BE AN OTTER" in said
    assert "AND SWIM" in said
    session = events[0]["session"]
    await runtime.run("r2", "again", provider=provider, session=session)
    # Claude Code takes them for a run, Codex for a session.
    assert ("BE AN OTTER" in said_of_the_system(model)) == (provider == "codex")


async def test_claude_takes_other_instructions_in_the_middle_of_a_session(
    runtime: Runtime, model: Model
) -> None:
    first = await runtime.run("r1", "hello")
    session = first[0]["session"]
    options = {"append_system_prompt": "AND SWIM"}
    second = await runtime.run("r2", "more", session=session, options=options)
    assert "AND SWIM" in said_of_the_system(model)
    assert [event["reason"] for event in second if event["type"] == "agent.restarted"] == [
        "this run has options of its own"
    ]
    third = await runtime.run("r3", "[[recall]]", session=session)
    assert "AND SWIM" not in said_of_the_system(model)
    assert '"hello", "more"' in third[-1]["text"]


async def test_claude_ends_at_its_limits(runtime: Runtime) -> None:
    tool = "[[tool:shell echo hi]]"
    few = await runtime.run("r1", tool, options={"max_turns": 1})
    assert (few[-1]["stop_reason"], few[-1]["error"]) == ("max_turns", None)
    poor = await runtime.run("r2", tool, options={"max_cost_usd": 0.001})
    assert (poor[-1]["stop_reason"], poor[-1]["error"]) == ("max_cost", None)
    # Dollars are counted for the run, not for its session.
    session = poor[0]["session"]
    rich = await runtime.run("r3", tool, session=session, options={"max_cost_usd": 5})
    assert rich[-1]["stop_reason"] == "end_turn"


@pytest.mark.parametrize("provider", FORKING)
async def test_an_answer_fits_its_schema(
    runtime: Runtime, model: Model, provider: Provider
) -> None:
    options = {"output_schema": SCHEMA}
    events = await runtime.run("r1", "who?", provider=provider, options=options)
    assert events[-1]["stop_reason"] == "end_turn", events[-1]
    assert json.loads(events[-1]["text"]) == {"name": "Hutch offline model", "count": 1}
    assert any(event["type"] == "text" and event["text"] == events[-1]["text"] for event in events)
    del model
    session = events[0]["session"]
    plain = await runtime.run("r2", "and now?", provider=provider, session=session)
    assert "and now?" in plain[-1]["text"]


async def test_an_answer_that_is_no_json_fails(runtime: Runtime) -> None:
    options = {"output_schema": SCHEMA}
    # A magic word makes the model answer as it likes. Claude Code would ask it once more.
    events = await runtime.run("r1", "[[text:200]]", provider="codex", options=options)
    assert events[-1]["error"]["code"] == "output_invalid"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_attachments_are_files_and_images_are_seen(
    runtime: Runtime, model: Model, tmp_path: Path, provider: Provider
) -> None:
    attachments = [
        {"name": "a picture.png", "media_type": "image/png", "data": PNG},
        {"name": "notes.txt", "media_type": "text/plain", "data": _base64(b"remember\0this")},
    ]
    events = await runtime.run("r1", "look", provider=provider, attachments=attachments)
    assert events[-1]["stop_reason"] == "end_turn", events[-1]
    place = tmp_path / "workspace" / ".attachments" / "r1"
    assert (place / "notes.txt").read_bytes() == b"remember\0this"
    assert (place / "a picture.png").read_bytes() == base64.b64decode(PNG)
    sent = "\n".join(model.bodies())
    assert PNG in sent
    assert str(place / "notes.txt") in sent
    assert '"look' in sent  # Claude Code adds a newline where it puts texts together


@pytest.mark.parametrize("provider", FORKING)
async def test_a_fork_goes_its_own_way(runtime: Runtime, provider: Provider) -> None:
    first = await runtime.run("r1", "before the fork", provider=provider)
    session = first[0]["session"]
    forked = await fork(runtime, provider, session)
    assert forked != session
    await runtime.run("r2", "only in the first", provider=provider, session=session)
    there = await runtime.run("r3", "only in the fork", provider=provider, session=forked)
    assert there[0]["session"] == forked
    for name, in_it, not_in_it in (
        (session, "only in the first", "only in the fork"),
        (forked, "only in the fork", "only in the first"),
    ):
        recall = await runtime.run(f"r4-{name}", "[[recall]]", provider=provider, session=name)
        assert "before the fork" in recall[-1]["text"]
        assert in_it in recall[-1]["text"]
        assert not_in_it not in recall[-1]["text"]


async def fork(runtime: Runtime, provider: Provider, session: str) -> str:
    answer = await runtime.http.post(f"/{provider}/fork", json={"session": session})
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["session"]
    return found


@pytest.mark.parametrize("provider", FORKING)
async def test_what_is_not_there_is_not_forked(runtime: Runtime, provider: Provider) -> None:
    for session in ("00000000-0000-0000-0000-000000000000", "nonsense"):
        answer = await runtime.http.post(f"/{provider}/fork", json={"session": session})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "session_not_found")


async def test_what_a_cli_cannot_do_is_refused_before_anything_is_run(runtime: Runtime) -> None:
    for provider, body in (
        ("gemini", {"options": {"max_turns": 1}}),
        ("gemini", {"options": {"output_schema": SCHEMA}}),
        ("codex", {"options": {"max_cost_usd": 1}}),
        ("codex", {"options": {"system_prompt": "x"}, "session": "s"}),
    ):
        code, message = await refused(runtime, f"/{provider}/with-options", **body)
        assert code == "not_supported"
        assert provider in message
    answer = await runtime.http.post("/gemini/fork", json={"session": "s"})
    assert answer.json()["error"]["code"] == "not_supported"


@pytest.mark.parametrize(
    "body",
    [
        {"options": {"max_turns": 0}},
        {"options": {"max_turns": True}},
        {"options": {"max_cost_usd": -1}},
        {"options": {"system_prompt": " "}},
        {"options": {"system_prompt": "x" * 65_537}},
        {"options": {"output_schema": "[]"}},
        {"options": {"output_schema": '{"type": "array"}'}},
        {"options": {"unknown": 1}},
        {"options": []},
        {"attachments": {}},
        {"attachments": [{"name": "x", "media_type": "text/plain", "data": "no!"}]},
        {"attachments": [{"name": "x", "media_type": "text", "data": ""}]},
        {"attachments": [{"name": "x", "media_type": "a/b", "data": "eA=="}] * 2},
        {"attachments": [{"name": "x" * n, "media_type": "a/b", "data": ""} for n in range(1, 12)]},
        *(
            {"attachments": [{"name": name, "media_type": "a/b", "data": ""}]}
            for name in ("", ".", "..", ".bashrc", "a/b", "a\\b", "a\0b", "-rf", "x" * 201, "a\nb")
        ),
    ],
)
async def test_what_is_malformed_is_refused(runtime: Runtime, body: dict[str, Any]) -> None:
    assert (await refused(runtime, "/claude/with-options", **body))[0] == "bad_request"


async def test_no_link_leads_an_attachment_elsewhere(runtime: Runtime, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "workspace" / ".attachments").symlink_to(outside)
    attachments = [{"name": "x", "media_type": "a/b", "data": "eA=="}]
    events: list[Event] = [
        event async for event in runtime.prompt("r1", "look", attachments=attachments)
    ]
    assert events[-1]["error"]["code"] == "runtime_error"
    assert list(outside.iterdir()) == []


async def refused(runtime: Runtime, path: str, **body: Any) -> tuple[str, str]:
    answer = await runtime.http.post(path, json={"run_id": "r", "prompt": "x", **body})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    return error["code"], error["message"]


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
