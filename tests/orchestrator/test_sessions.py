"""Sessions: names, forks and transcripts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hutch.app import Hutch
from hutch.runs import sessions as sessions_module
from tests.orchestrator.conftest import Api, World, new_user
from tests.orchestrator.runtime import ScriptedRun, finished, waits_for_cancel


async def run(api: Api, key: str, prompt: str, **asked: Any) -> dict[str, Any]:
    body = {"provider": "claude", "prompt": prompt, **asked}
    status, answer = await api("POST", "/v1/runs", key, json=body)
    assert status == 200, answer
    assert isinstance(answer, dict)
    return answer


async def test_a_session_has_a_name(api: Api, key: str) -> None:
    path = f"/v1/sessions/{(await run(api, key, 'x'))['session_id']}"
    assert (await api("GET", path, key))[1]["name"] is None
    status, named = await api("PATCH", path, key, json={"name": " My otters \u2603 "})
    assert (status, named["name"]) == (200, "My otters \u2603")
    assert (await api("GET", "/v1/sessions", key))[1]["sessions"] == [named]
    for bad in ("", " ", "a\nb", "x" * 201, 5):
        assert (await api("PATCH", path, key, json={"name": bad}))[0] == 400
    assert (await api("PATCH", path, key, json={}))[0] == 400
    assert (await api("PATCH", path, key, json={"name": None}))[1]["name"] is None
    assert (await api("PATCH", "/v1/sessions/ses_none", key, json={"name": "x"}))[0] == 404


async def test_a_fork_goes_on_from_what_was_said(world: World, api: Api, key: str) -> None:
    first = await run(api, key, "x")
    path = f"/v1/sessions/{first['session_id']}/fork"
    status, forked = await api("POST", path, key, json={"name": "another way"})
    assert (status, forked["name"], forked["forked_from"]) == (
        201,
        "another way",
        first["session_id"],
    )
    assert forked["provider_session"] == f"{first['provider_session']}-fork"
    again = await run(api, key, "y", session_id=forked["id"])
    assert again["provider_session"] == forked["provider_session"]
    assert world.runtime.bodies[-1]["session"] == forked["provider_session"]


async def test_a_fork_is_refused_where_there_is_none(
    world: World, hutch: Hutch, api: Api, key: str
) -> None:
    async def fork(session_id: str, by: str = key) -> tuple[int, str]:
        status, answer = await api("POST", f"/v1/sessions/{session_id}/fork", by, json={})
        return status, answer["error"]["code"]

    gemini = await run(api, key, "x", provider="gemini")
    assert await fork(gemini["session_id"]) == (400, "not_supported")
    assert await fork("ses_none") == (404, "not_found")
    stranger = await new_user(hutch, "stranger")
    stranger_key = (await hutch.accounts.create_key("user", stranger)).text
    claude = await run(api, key, "x")
    assert await fork(claude["session_id"], stranger_key) == (404, "not_found")
    world.runtime.script = waits_for_cancel
    busy = await run(api, key, "x", session_id=claude["session_id"], wait=0)
    assert await fork(claude["session_id"]) == (409, "session_busy")
    await api("POST", f"/v1/runs/{busy['id']}/cancel", key)
    await api("GET", f"/v1/runs/{busy['id']}?wait=30", key)
    await api("DELETE", "/v1/container", key)
    assert await fork(claude["session_id"]) == (409, "conflict")


async def works(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield run.started()
    for piece in ("I ", "think"):
        yield "reasoning.delta", {"text": piece}
    for piece in ("Let me ", "look."):
        yield "text.delta", {"text": piece}
    yield "text", {"text": "Let me look."}
    tool = {"tool_id": "t1", "kind": "shell", "name": "Bash", "input": {"command": "ls ```"}}
    yield "tool.started", tool
    yield "tool.started", {**tool, "tool_id": "t2"}
    yield "tool.output", {"tool_id": "t1", "text": "a.txt\n"}
    yield "tool.finished", {"tool_id": "t1", "ok": True, "output": ""}
    yield "plan", {"items": [{"text": "swim", "status": "completed"}]}
    yield "text.delta", {"text": "broken o"}
    yield finished("cancelled")


async def test_a_transcript_tells_what_was_said_and_done(
    world: World, api: Api, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the session were long: it is read in pieces of two.
    monkeypatch.setattr(sessions_module, "_RUNS_AT_ONCE", 2)
    monkeypatch.setattr(sessions_module, "_EVENTS_AT_ONCE", 2)
    first = await run(api, key, "first # prompt")
    session = first["session_id"]
    world.runtime.script = works
    for number in range(4):
        await run(api, key, f"prompt {number}", session_id=session)
    status, told = await api("GET", f"/v1/sessions/{session}/transcript", key)
    assert status == 200
    assert told["session"]["id"] == session
    assert [one["prompt"] for one in told["runs"]] == [
        "first # prompt",
        *(f"prompt {number}" for number in range(4)),
    ]
    shell = {"kind": "shell", "name": "Bash", "input": {"command": "ls ```"}}
    assert told["runs"][1]["items"] == [
        {"type": "reasoning", "text": "I think"},
        {"type": "text", "text": "Let me look."},
        {"type": "tool", **shell, "ok": True, "output": "a.txt\n"},
        {"type": "plan", "items": [{"text": "swim", "status": "completed"}]},
        {"type": "tool", **shell, "ok": None, "output": ""},
        {"type": "text", "text": "broken o"},
    ]
    path = f"/v1/sessions/{session}/transcript"
    status, by_format = await api("GET", f"{path}?format=md", key)
    assert api.headers["content-type"].startswith("text/markdown")
    _, by_accept = await api("GET", path, key, headers={"accept": "text/markdown"})
    assert by_format == by_accept
    assert "> first # prompt" in by_format
    assert by_format.count("Let me look.") == 4
    assert '````json\n{\n  "command": "ls ```"\n}\n````' in by_format
    assert "- [x] swim" in by_format
    assert "*Cancelled*" in by_format
    _, as_json = await api("GET", f"{path}?format=json", key, headers={"accept": "text/markdown"})
    assert json.loads(json.dumps(as_json)) == told
    assert (await api("GET", f"{path}?format=pdf", key))[0] == 400
    assert (await api("GET", "/v1/sessions/ses_none/transcript", key))[0] == 404
