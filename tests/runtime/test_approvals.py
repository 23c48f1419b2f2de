"""What a person is asked before an agent does it: with the real CLIs, and what is not theirs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hutch_runtime.approvals import Approvals, Decided, Question
from hutch_runtime.diffs import headed, unified
from hutch_runtime.journal import Journal
from hutch_runtime.protocol import (
    APPROVALS_OPEN_MAX,
    PROVIDERS,
    OptionError,
    Provider,
    read_options,
)
from hutch_runtime.providers import claude_permissions, codex_approvals, gemini_permissions
from hutch_runtime.providers.codex_items import ToolItem
from tests.integration.test_places_outside import SERVER, SHOUT
from tests.runtime.model import Model, running_model
from tests.runtime.runtime_process import Event, Runtime, running_runtime

ASK = {"permission_mode": "ask"}
QUESTION = Question("t1", "shell", "Bash", {"command": "touch x"})


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with running_model() as model:
        yield model


class Conversation:
    """One session, whose runs all have the same agent."""

    def __init__(self, runtime: Runtime, provider: Provider) -> None:
        self.runtime = runtime
        self.provider = provider
        self.session: str | None = None
        self.runs = 0

    async def say(
        self, prompt: str, *decisions: str, options: dict[str, Any] | None = None
    ) -> list[Event]:
        """Answers what is asked by ``decisions``, in turn; "cancel" ends the run."""
        self.runs += 1
        run_id, waiting = f"r{self.runs}", list(decisions)
        more: dict[str, Any] = {"provider": self.provider, "session": self.session}
        if options:
            more["options"] = options
        events = []
        async for event in self.runtime.prompt(run_id, prompt, **more):
            events.append(event)
            if event["type"] == "approval.requested" and waiting:
                decision = waiting.pop(0)
                path = f"/runs/{run_id}/approvals/{event['approval_id']}"
                if decision == "cancel":
                    path = f"/runs/{run_id}/cancel"
                answer = await self.runtime.http.post(path, json={"decision": decision})
                assert answer.status_code == 200, answer.text
        assert waiting == [], events
        assert [event for event in events if event["type"] == "unparsed"] == []
        assert self.session in {None, events[0]["session"]}
        self.session = events[0]["session"]
        return events


def of(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event["type"] == kind]


def ends(events: list[Event]) -> list[tuple[str, str]]:
    return [(one["decision"], one["by"]) for one in of(events, "approval.decided")]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_warm_agent_asks_in_the_runs_that_say_so_and_in_no_other(
    tmp_path: Path, model: Model, provider: Provider
) -> None:
    files = tmp_path / "workspace"
    async with running_runtime(tmp_path, model.url, prewarm=provider) as runtime:
        await runtime.ready()
        talk = Conversation(runtime, provider)

        allowed = await talk.say("[[tool:shell touch allowed]]", "allow", options=ASK)
        assert allowed[0]["agent"] == "warm"
        [asked] = of(allowed, "approval.requested")
        [tool] = of(allowed, "tool.started")
        assert (asked["approval_id"], asked["kind"]) == ("apr_1", "shell")
        assert (asked["tool_id"], asked["name"]) == (tool["tool_id"], tool["name"])
        assert "touch allowed" in asked["input"]["command"]
        assert (asked["diff"], asked["truncated"], asked["timeout_s"]) == (None, False, 300)
        assert ends(allowed) == [("allow", "user")]
        assert (files / "allowed").exists()

        denied = await talk.say("[[tool:shell touch denied]]", "deny", options=ASK)
        assert ends(denied) == [("deny", "user")]
        assert [one["ok"] for one in of(denied, "tool.finished")] == [False]
        assert denied[-1]["stop_reason"] == "end_turn"  # the agent was told, and went on
        assert "tool_result=" in denied[-1]["text"]
        assert not (files / "denied").exists()

        late = await talk.say(
            "[[tool:shell touch late]]", options={**ASK, "approval_timeout_s": 0.2}
        )
        assert ends(late) == [("deny", "timeout")]
        assert "tool_result=" in late[-1]["text"]
        assert not (files / "late").exists()

        ended = await talk.say("[[tool:shell touch ended]]", "cancel", options=ASK)
        assert ends(ended) == [("deny", "cancel")]
        assert ended[-1]["stop_reason"] == "cancelled"
        assert not (files / "ended").exists()

        free = await talk.say("[[tool:shell touch free]]")
        assert (of(free, "approval.requested"), free[0]["agent"]) == ([], "live")
        assert (files / "free").exists()

        first = await talk.say("[[tool:shell touch always]]", "always", options=ASK)
        again = await talk.say("[[tool:shell touch always]]", options=ASK)
        assert ends(first) == [("always", "user")]
        assert of(again, "approval.requested") == []
        assert [one["ok"] for one in of(again, "tool.finished")] == [True]
        # Another session has allowed nothing.
        other = Conversation(runtime, provider)
        other.runs = 100
        elsewhere = await other.say("[[tool:shell touch always]]", "deny", options=ASK)
        assert ends(elsewhere) == [("deny", "user")]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_edit_is_asked_about_with_its_diff(
    tmp_path: Path, model: Model, provider: Provider
) -> None:
    async with running_runtime(tmp_path, model.url, prewarm="") as runtime:
        file = tmp_path / "workspace" / "notes.txt"
        file.write_text("one\ntwo\n")
        prompt = f"[[tool:write {file} three]]"
        if provider == "codex":  # whose tool for it is a command that it sees through
            patch = "*** Begin Patch\n*** Update File: notes.txt\n@@\n-one\n-two\n+three\n"
            prompt = f"[[tool:shell apply_patch <<'END'\n{patch}*** End Patch\nEND\n]]"
        talk = Conversation(runtime, provider)
        events = await talk.say(prompt, "deny", options=ASK)
        [asked] = of(events, "approval.requested")
        assert asked["kind"] == "edit"
        lines = asked["diff"].splitlines()
        assert lines[0].startswith("--- a/")
        assert lines[1].endswith("/notes.txt")
        assert lines[3:6] == ["-one", "-two", "+three"]
        assert file.read_text() == "one\ntwo\n"
        await talk.say(prompt, "allow", options=ASK)
        assert file.read_text().strip() == "three"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_tool_of_an_mcp_server_is_asked_about(
    tmp_path: Path, model: Model, provider: Provider
) -> None:
    async with running_runtime(tmp_path, model.url, prewarm="") as runtime:
        program = tmp_path / "workspace" / "server.py"
        program.write_text(SERVER)
        server = {"name": "notes", "command": sys.executable, "args": [str(program)]}
        answer = await runtime.http.put("/mcp-servers", json={"servers": [server]})
        assert answer.status_code == 200, answer.text
        talk = Conversation(runtime, provider)
        for decision, said in (("deny", False), ("always", True)):
            events = await talk.say(SHOUT.format("notes"), decision, options=ASK)
            [asked] = of(events, "approval.requested")
            [tool] = of(events, "tool.started")
            assert (asked["kind"], asked["tool_id"]) == ("mcp", tool["tool_id"])
            assert ("AHOY" in events[-1]["text"]) == said
        events = await talk.say(SHOUT.format("notes"), options=ASK)
        assert of(events, "approval.requested") == []
        assert "AHOY" in events[-1]["text"]


async def test_the_runtime_refuses_what_was_not_asked(tmp_path: Path, model: Model) -> None:
    async with running_runtime(tmp_path, model.url, prewarm="") as runtime:
        await runtime.run("r1", "hello", provider="codex", options=ASK)
        for path, decision, status in (
            ("/runs/r1/approvals/apr_1", "allow", 404),
            ("/runs/r1/approvals/x", "allow", 404),
            ("/runs/r2/approvals/apr_1", "allow", 404),
            ("/runs/r1/approvals/apr_1", "perhaps", 400),
        ):
            answer = await runtime.http.post(path, json={"decision": decision})
            assert answer.status_code == status, (path, decision)


# Without a CLI


async def pending(approvals: Approvals, question: Question = QUESTION) -> asyncio.Task[Decided]:
    task = asyncio.create_task(approvals.ask(question))
    await asyncio.sleep(0)
    return task


def journalled(journal: Journal) -> list[bytes]:
    return journal._events


async def test_the_first_decision_counts() -> None:
    journal = Journal("r")
    approvals = Approvals(journal.append, timeout_s=None)
    task = await pending(approvals)
    assert approvals.decide("apr_2", "allow") is None
    assert approvals.decide("apr_1", "allow") == Decided("allow", "user")
    assert approvals.decide("apr_1", "deny") == Decided("allow", "user")
    assert (await task).verdict == "allow"
    approvals.close()
    assert len(journalled(journal)) == 2


async def test_what_the_cli_gives_up_is_told_as_its_own() -> None:
    journal = Journal("r")
    approvals = Approvals(journal.append, timeout_s=None)
    task = await pending(approvals)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert approvals.decide("apr_1", "allow") == Decided("deny", "agent")
    assert b'"by":"agent"' in journalled(journal)[-1]


async def test_no_more_is_open_at_once_than_anybody_reads() -> None:
    journal = Journal("r")
    approvals = Approvals(journal.append, timeout_s=None)
    tasks = [await pending(approvals) for _ in range(APPROVALS_OPEN_MAX)]
    assert await approvals.ask(QUESTION) == Decided("deny", "agent")
    approvals.close()
    assert {task.verdict for task in await asyncio.gather(*tasks)} == {"cancel"}
    assert (await approvals.ask(QUESTION)).verdict == "cancel"
    assert len(journalled(journal)) == 2 * APPROVALS_OPEN_MAX


async def test_what_is_asked_is_bounded_and_says_so() -> None:
    journal = Journal("r")
    approvals = Approvals(journal.append, timeout_s=0.01)
    many = {str(number): "x" * 10_000 for number in range(1000)}
    for given, diff in (({"content": "x" * 100_000}, None), (many, None), ({}, "+" * 100_000)):
        await approvals.ask(Question("t", "edit", "Write", given, diff))
    requested = [event for event in journalled(journal) if b"approval.requested" in event]
    assert len(requested) == 3
    assert all(b'"truncated":true' in event for event in requested)
    assert all(len(event) < 200_000 for event in requested)


async def test_what_cannot_be_told_is_denied() -> None:
    approvals = Approvals(lambda *_, **__: False, timeout_s=None)
    assert await approvals.ask(QUESTION) == Decided("deny", "agent")


def test_diffs() -> None:
    assert unified("/w/a.txt", "x\n", "y") == (
        "--- a/w/a.txt\n+++ b/w/a.txt\n@@ -1 +1 @@\n-x\n+y\n\\ No newline at end of file\n"
    )
    assert unified("n", None, "y\n") == "--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+y\n"
    assert unified("n", "x" * 200_000, "") is None
    assert unified("n", "x\n" * 3000, "y\n" * 3000) is None
    # A name that tries to look like another file's part.
    assert unified("a\n+++ b/c", None, "y\n") == (
        "--- /dev/null\n+++ b/a?+++ b/c\n@@ -0,0 +1 @@\n+y\n"
    )
    assert headed("b", "@@ -1 +1 @@\n-x\n+y\n", before="a").startswith("--- a/a\n+++ b/b\n@@")


def test_nothing_that_is_allowed_for_good_is_written_into_a_file() -> None:
    rule = {"type": "addRules", "rules": [{"toolName": "Bash"}], "destination": "localSettings"}
    edits = {"type": "setMode", "mode": "acceptEdits", "destination": "userSettings"}
    everything = {"type": "setMode", "mode": "bypassPermissions", "destination": "session"}

    def lasting(*suggestions: Any) -> Any:
        request = {"input": {"command": "x"}, "permission_suggestions": [*suggestions]}
        said = claude_permissions.answer("1", request, "always")["response"]["response"]
        assert said["behavior"] == "allow"
        return said.get("updatedPermissions")

    assert lasting(edits, rule) == [{**rule, "destination": "session"}]
    assert lasting(edits, everything) == [{**edits, "destination": "session"}]
    assert lasting(everything) is None
    assert lasting("nonsense", None) is None


def test_gemini_is_allowed_for_good_only_when_that_was_said() -> None:
    options = [
        {"optionId": kind, "kind": kind} for kind in ("allow_always", "allow_once", "reject_once")
    ]

    def chosen(verdict: Any) -> Any:
        return gemini_permissions.answer(options, verdict)["outcome"].get("optionId")

    assert [chosen(verdict) for verdict in ("allow", "always", "deny", "cancel")] == [
        *("allow_once", "allow_always", "reject_once", None)
    ]
    assert gemini_permissions.answer("nonsense", "allow") == {"outcome": {"outcome": "cancelled"}}


def test_codex_tells_of_files_that_are_made_moved_and_removed() -> None:
    changes = [
        {"path": "/w/new", "kind": {"type": "add"}, "diff": "a\n"},
        {"path": "/w/old", "kind": {"type": "delete"}, "diff": "b\n"},
        {"path": "/w/x", "kind": {"type": "update", "move_path": "/w/y"}, "diff": "@@\n-c\n+d\n"},
    ]
    method = "item/fileChange/requestApproval"
    item = ToolItem("edit", "fileChange", {"changes": changes}, ok=True, output="")
    asked = codex_approvals.question(method, {"itemId": "i"}, {"i": item})
    assert asked.diff == (
        "--- /dev/null\n+++ b/w/new\n@@ -0,0 +1 @@\n+a\n"
        "--- a/w/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-b\n"
        "--- a/w/x\n+++ b/w/y\n@@\n-c\n+d\n"
    )
    assert codex_approvals.question(method, {"itemId": "i"}, {}).diff is None


def test_codex_asks_about_a_tool_of_an_mcp_server_by_a_form() -> None:
    method = "mcpServer/elicitation/request"
    params = {  # as 0.169 has sent it
        "serverName": "probe",
        "mode": "form",
        "_meta": {
            "codex_approval_kind": "mcp_tool_call",
            "persist": ["session", "always"],
            "tool_name": "poke",
            "tool_params": {"what": "it"},
        },
        "message": 'Allow the probe MCP server to run tool "poke"?',
        "requestedSchema": {"type": "object", "properties": {}},
    }
    item = ToolItem("mcp", "probe.poke", {"what": "it"}, ok=True, output="")
    asked = codex_approvals.question(method, params, {"i": item})
    assert asked == Question("i", "mcp", "probe.poke", {"what": "it"})

    def said(verdict: Any, given: dict[str, Any] = params) -> tuple[str, Any]:
        told = codex_approvals.answer(method, given, verdict)
        return told["action"], told["_meta"]

    assert [said(verdict) for verdict in ("allow", "always", "deny", "cancel")] == [
        ("accept", None),
        ("accept", {"persist": "session"}),
        ("decline", None),
        ("cancel", None),
    ]
    assert said("always", {"_meta": {"persist": ["always"]}}) == ("accept", None)
    # A form of the server's own is nobody's approval.
    assert codex_approvals.is_approval(method, params)
    assert not codex_approvals.is_approval(method, {**params, "_meta": None})


@pytest.mark.parametrize(
    "given",
    [
        {"permission_mode": "never"},
        {"permission_mode": ["ask"]},
        {"approval_timeout_s": 5},
        {"permission_mode": "auto", "approval_timeout_s": 5},
        *({"permission_mode": "ask", "approval_timeout_s": s} for s in (0, -1, 3601, True, "5")),
        {"permission_mode": "ask", "approval_timeout_s": float("nan")},
    ],
)
def test_options_that_are_none(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        read_options(given)
