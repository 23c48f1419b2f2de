"""Options, attachments, forks and transcripts with the real CLIs in containers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from hutch_runtime.protocol import PROVIDERS
from tests.service import User

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_attachment_is_there_for_the_agents_commands(user: User, provider: str) -> None:
    data = base64.b64encode(b"seven otters").decode()
    attachment = {"name": "a note.txt", "media_type": "text/plain", "data": data}
    command = "cat /workspace/.attachments/*/a*note.txt"
    said = user.shell(provider, command, attachments=[attachment])
    assert "seven otters" in said or provider == "gemini"  # whose protocol carries no output
    found = user.python(
        "import json, glob; print(json.dumps([open(name).read() for name in "
        "glob.glob('/workspace/.attachments/*/a note.txt')]))"
    )
    assert "seven otters" in found


def test_claude_obeys_the_options_of_one_run(user: User) -> None:
    run = user.run("claude", "who?", output_schema=SCHEMA, append_system_prompt="Be brief.")
    assert run["state"] == "succeeded", run
    assert json.loads(run["text"]) == {"name": "Hutch offline model"}
    session = run["session_id"]
    tool = "[[tool:shell echo hi]]"
    few = user.run("claude", tool, session_id=session, max_turns=1)
    assert (few["state"], few["stop_reason"]) == ("succeeded", "max_turns")
    poor = user.run("claude", tool, session_id=session, max_cost_usd=0.0001)
    assert (poor["state"], poor["stop_reason"]) == ("succeeded", "max_cost")
    assert "hi" in user.shell("claude", "echo hi", session_id=session)


@pytest.mark.parametrize("provider", ["claude", "codex"])
def test_a_fork_and_its_origin_go_their_own_ways(user: User, provider: str) -> None:
    first = user.run(provider, "before the fork")
    path = f"/v1/sessions/{first['session_id']}/fork"
    forked: dict[str, Any] = user.client.call("POST", path, json={"name": "other"})
    user.run(provider, "in the first", session_id=first["session_id"])
    recall = user.run(provider, "[[recall]]", session_id=forked["id"])
    assert "before the fork" in recall["text"]
    assert "in the first" not in recall["text"]
    told = user.client.call("GET", f"/v1/sessions/{forked['id']}/transcript")
    assert [run["prompt"] for run in told["runs"]] == ["[[recall]]"]
    assert told["runs"][0]["items"][-1]["text"] == recall["text"]
