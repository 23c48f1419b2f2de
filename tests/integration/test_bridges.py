"""Editors and other agents in front of the service, by their protocols' libraries; TypeScript."""

from __future__ import annotations

import json
from typing import Any

import mcp
from mcp.client.stdio import StdioServerParameters

from tests.service import HUTCH, Service, User
from tests.typescript import node


def environment(service: Service, user: User) -> dict[str, str]:
    return {
        "HUTCH_URL": service.url,
        "HUTCH_API_KEY": user.key,
        "HUTCH_DATA_DIR": "/nonexistent",
    }


def test_an_editor(service: Service, user: User) -> None:
    said = node("test/acp.js", str(HUTCH), "acp", "claude", **environment(service, user))
    lines: list[dict[str, Any]] = [json.loads(line) for line in said.split("\n") if line]
    assert lines[0]["begun"]["protocolVersion"] == 1
    assert lines[0]["begun"]["agentCapabilities"]["loadSession"] is True
    assert [line["ended"] for line in lines if "ended" in line] == [
        *("end_turn", "end_turn", "cancelled", "end_turn"),
        *("end_turn" for _ in range(3)),
    ]
    listed = next(line["listed"] for line in lines if "listed" in line)
    place = next(number for number, line in enumerate(lines) if "listed" in line)
    loaded = next(number for number, line in enumerate(lines) if "loaded" in line)

    live = [line["update"] for line in lines[:place] if "update" in line]
    calls = [u for u in live if u["sessionUpdate"] == "tool_call"]
    assert [call["kind"] for call in calls] == ["execute"]
    assert "echo from an editor" in calls[0]["title"]
    ended = [u for u in live if u["sessionUpdate"] == "tool_call_update"][-1]
    assert (ended["toolCallId"], ended["status"]) == (calls[0]["toolCallId"], "completed")
    assert "from an editor" in ended["content"][0]["content"]["text"]
    thoughts = [u for u in live if u["sessionUpdate"] == "agent_thought_chunk"]
    assert "".join(u["content"]["text"] for u in thoughts)

    replayed = [line for line in lines[place:loaded] if "update" in line]
    assert {line["session"] for line in replayed} == {listed}
    asked = [
        line["update"]["content"]["text"]
        for line in replayed
        if line["update"]["sessionUpdate"] == "user_message_chunk"
    ]
    assert asked == [
        *("[[tool:shell echo from an editor]]", "[[reasoning]] remember me"),
        "[[slow:600,50]] on and on",
    ]
    recalled = [line["update"] for line in lines[loaded:] if "update" in line]
    assert "remember me" in "".join(
        u["content"]["text"] for u in recalled if u["sessionUpdate"] == "agent_message_chunk"
    )
    asked_for = [line["asked"] for line in lines if "asked" in line]
    assert [one["toolCall"]["kind"] for one in asked_for] == ["edit", "edit"]
    assert "+yes" in asked_for[1]["toolCall"]["content"][0]["content"]["text"]
    assert {option["kind"] for option in asked_for[0]["options"]} == {
        *("allow_once", "allow_always", "reject_once")
    }
    read = "import json; print(json.dumps(open('/workspace/asked.txt').read()))"
    assert user.python(read) == "yes"
    mode, auth, missing, unknown = [line["refused"] for line in lines if "refused" in line]
    assert mode["code"] == -32602
    assert auth["data"]["code"] == "provider_auth", auth
    assert missing["code"] == unknown["code"] == -32002
    assert lines[-1] == {"exit": 0}
    [session] = user.client.call("GET", "/v1/sessions")["sessions"]
    assert session["id"] == listed


async def test_another_agent(service: Service, user: User) -> None:
    server = StdioServerParameters(command=str(HUTCH), args=["mcp"], env=environment(service, user))
    async with mcp.Client(server) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert tools == {
            *("run", "get_run", "cancel_run", "list_runs", "list_sessions", "get_container")
        }

        async def call(name: str, **arguments: Any) -> dict[str, Any]:
            answer = await client.call_tool(name, arguments)
            assert not answer.is_error, answer
            found: dict[str, Any] = json.loads(answer.content[0].text)  # type: ignore[union-attr]  # text, or it fails
            return found

        steps: list[str] = []

        async def progressed(progress: float, total: float | None, message: str | None) -> None:
            steps.append(f"{progress} {total} {message}")

        first = await client.call_tool(
            "run",
            {"provider": "codex", "prompt": "[[tool:shell echo from an agent]]"},
            progress_callback=progressed,
        )
        run = json.loads(first.content[0].text)  # type: ignore[union-attr]  # the same
        assert (run["state"], run["error"]) == ("succeeded", None)
        assert "from an agent" in run["text"]
        assert any("shell" in step for step in steps)
        more = await call(
            "run", provider="codex", prompt="[[recall]]", session_id=run["session_id"]
        )
        assert "echo from an agent" in more["text"]

        slow = await call("run", provider="codex", prompt="[[slow:600,50]]", wait_s=0)
        assert slow["state"] in {"queued", "running"}
        await call("cancel_run", run_id=slow["run_id"])
        ended = await call("get_run", run_id=slow["run_id"], wait_s=30)
        assert ended["state"] == "cancelled"

        listed = await call("list_runs", limit=2)
        assert listed["runs"][0]["run_id"] == slow["run_id"]
        sessions = await call("list_sessions")
        assert run["session_id"] in {one["id"] for one in sessions["sessions"]}
        assert (await call("get_container"))["observed"] == "running"

        wrong = await client.call_tool("get_run", {"run_id": "run_none"})
        assert wrong.is_error
        assert "not_found" in wrong.content[0].text  # type: ignore[union-attr]  # the same


def test_typescript(service: Service, user: User) -> None:
    ours = environment(service, user)
    events = [
        json.loads(line)
        for line in node("test/client.js", "stream", "from typescript", **ours).split("\n")
        if line
    ]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert 'you said "from typescript"' in events[-1]["text"]
    run = json.loads(node("test/client.js", "run", "to its end", **ours))
    assert run["state"] == "succeeded"
    [session] = json.loads(node("test/client.js", "sessions", **ours))
    assert session["id"] == run["session_id"]
    key = service.admin.call("POST", "/v1/admin/service-keys")["key"]
    argv = (user.id, "codex", "Say hello.")
    said = node("examples/polydev-provider.js", *argv, **ours, HUTCH_SERVICE_KEY=key)
    assert 'you said "Say hello."' in said
