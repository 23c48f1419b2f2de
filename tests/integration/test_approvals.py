"""What somebody is asked before an agent does it, with the real CLIs in a container."""

from __future__ import annotations

from typing import Any

import pytest

from hutch.client import Client, Conflict
from hutch.client.events import ApprovalDecided, ApprovalRequested
from hutch_runtime.protocol import PROVIDERS, Decision, Provider
from tests.service import Service, User

LISTED = "import json, os; print(json.dumps(sorted(os.listdir('/workspace'))))"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_agent_does_what_was_allowed_and_nothing_else(
    service: Service, user: User, provider: Provider
) -> None:
    with Client(service.url, user.key) as client:

        def say(name: str, decision: Decision | None, **options: Any) -> list[tuple[str, str]]:
            """How each that was asked for was decided; without a decision nobody answers."""
            prompt = f"[[tool:shell touch {provider}-{name}]]"
            ends = []
            stream = client.stream(provider, prompt, session_id=sessions[-1], **options)
            for event in stream:
                match event:
                    case ApprovalRequested(run_id=run_id, approval_id=approval_id, input=given):
                        assert f"touch {provider}-{name}" in str(given)
                        if decision is not None:
                            client.decide(run_id, approval_id, decision)
                    case ApprovalDecided():
                        ends.append((event.decision, event.by))
            run = stream.result().check()
            sessions.append(run.session_id)
            assert (run.stop_reason, len(set(sessions[1:]))) == ("end_turn", 1)
            known = client.approvals(run.id)
            assert [(one.decision, one.by) for one in known] == ends
            if ends:
                other: Decision = "deny" if ends[0][0] == "allow" else "allow"
                with pytest.raises(Conflict, match="approval_decided"):
                    client.decide(run.id, "apr_1", other)
            return ends

        sessions: list[str | None] = [None]
        asks = {"permission_mode": "ask"}
        assert say("allowed", "allow", **asks) == [("allow", "user")]
        assert say("denied", "deny", **asks) == [("deny", "user")]
        assert say("late", None, approval_timeout_s=1, **asks) == [("deny", "timeout")]
        assert say("free", None) == []
        there = user.python(LISTED)
        assert [name for name in there if name.startswith(provider)] == [
            f"{provider}-allowed",
            f"{provider}-free",
        ]


def test_what_is_decided_after_a_restart_arrives(service: Service, user: User) -> None:
    with Client(service.url, user.key) as client:
        run = client.submit(
            "codex", "[[tool:shell touch restarted]]", permission_mode="ask", timeout_s=60
        )
        for event in client.follow(run.id):
            if isinstance(event, ApprovalRequested):
                break
        service.restart("api")
        assert [one.decision for one in client.approvals(run.id)] == [None]
        assert client.decide(run.id, "apr_1", "allow").by == "user"
        assert client.wait_for(run.id).check().stop_reason == "end_turn"
    assert "restarted" in user.python(LISTED)
