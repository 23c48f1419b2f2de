"""What a person decides, from the request to the runtime and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hutch.app import Hutch
from hutch.errors import ApprovalDecided, NotFound
from hutch.runs.models import Run
from hutch.runs.service import NewRun
from hutch_runtime.protocol import APPROVALS_OPEN_MAX, Options, PermissionMode
from tests.orchestrator.conftest import Api, World, log_of, new_user
from tests.orchestrator.runtime import Script, ScriptedRun, asks, asks_for, finished

ASK = Options(permission_mode="ask", approval_timeout_s=60)


@pytest.fixture(autouse=True)
def scripted(world: World) -> None:
    world.runtime.script = asks


async def asking(hutch: Hutch, user_id: str, count: int = 1) -> Run:
    """A run that waits for so many approvals."""
    run = await hutch.runs.submit(user_id, NewRun("claude", str(count), options=ASK))
    left = count
    async for entry in await hutch.runs.events(user_id, run.id):
        left -= entry.type == "approval.requested"
        if not left:
            return run
    raise AssertionError("it did not ask")


async def test_what_is_decided_reaches_the_agent_once(
    world: World, hutch: Hutch, user_id: str
) -> None:
    run = await asking(hutch, user_id)
    assert world.runtime.bodies[-1]["options"] == {
        "permission_mode": "ask",
        "approval_timeout_s": 60,
    }
    [waiting] = await hutch.runs.approvals(user_id, run.id)
    assert (waiting.id, waiting.decision, waiting.kind) == ("apr_1", None, "shell")
    assert waiting.expires_at == waiting.requested_at + 300
    for _ in range(2):
        decided = await hutch.runs.decide(user_id, run.id, "apr_1", "allow")
        assert (decided.decision, decided.by) == ("allow", "user")
    with pytest.raises(ApprovalDecided):
        await hutch.runs.decide(user_id, run.id, "apr_1", "deny")
    ended = await hutch.runs.finished(user_id, run.id)
    assert (ended.state, ended.text) == ("succeeded", "allow")
    # The same of a run that is over.
    again = await hutch.runs.decide(user_id, run.id, "apr_1", "allow")
    assert (again.decision, again.by) == ("allow", "user")
    with pytest.raises(ApprovalDecided):
        await hutch.runs.decide(user_id, run.id, "apr_1", "always")
    kinds = [entry.type for entry in await log_of(hutch, run) if entry.type != "queued"]
    assert kinds == ["run.started", "approval.requested", "approval.decided", "run.finished"]


async def test_two_who_decide_at_the_same_moment(hutch: Hutch, user_id: str) -> None:
    run = await asking(hutch, user_id)
    tried = await asyncio.gather(
        hutch.runs.decide(user_id, run.id, "apr_1", "allow"),
        hutch.runs.decide(user_id, run.id, "apr_1", "deny"),
        return_exceptions=True,
    )
    assert sum(isinstance(one, ApprovalDecided) for one in tried) == 1
    ended = await hutch.runs.finished(user_id, run.id)
    [approval] = await hutch.runs.approvals(user_id, run.id)
    assert approval.decision == ended.text


async def test_several_wait_at_once(hutch: Hutch, user_id: str) -> None:
    run = await asking(hutch, user_id, 3)
    await hutch.runs.decide(user_id, run.id, "apr_3", "deny")
    await hutch.runs.decide(user_id, run.id, "apr_1", "allow")
    await hutch.runs.decide(user_id, run.id, "apr_2", "always")
    assert (await hutch.runs.finished(user_id, run.id)).text == "allow always deny"


async def test_what_is_not_ones_own_is_not_there(hutch: Hutch, user_id: str) -> None:
    run = await asking(hutch, user_id)
    other = await new_user(hutch, "other")
    cases = ((other, run.id, "apr_1"), (user_id, run.id, "apr_2"), (user_id, "run_x", "apr_1"))
    for who, run_id, approval_id in cases:
        with pytest.raises(NotFound):
            await hutch.runs.decide(who, run_id, approval_id, "allow")
    with pytest.raises(NotFound):
        await hutch.runs.approvals(other, run.id)
    await hutch.runs.cancel(user_id, run.id)
    await hutch.runs.finished(user_id, run.id)


async def test_a_cancel_ends_the_waiting(hutch: Hutch, user_id: str) -> None:
    run = await asking(hutch, user_id)
    await hutch.runs.cancel(user_id, run.id)
    assert (await hutch.runs.finished(user_id, run.id)).state == "cancelled"
    [approval] = await hutch.runs.approvals(user_id, run.id)
    assert (approval.decision, approval.by) == ("deny", "cancel")
    with pytest.raises(ApprovalDecided):
        await hutch.runs.decide(user_id, run.id, "apr_1", "allow")


async def test_a_decision_after_a_restart_arrives(world: World) -> None:
    async with world.orchestrator() as first:
        user_id = await new_user(first, "someone")
        run = await asking(first, user_id, 2)
        await first.runs.decide(user_id, run.id, "apr_1", "allow")
    async with world.orchestrator() as second:
        waiting = [one.id for one in await second.runs.approvals(user_id, run.id)]
        assert waiting == ["apr_1", "apr_2"]
        await second.runs.decide(user_id, run.id, "apr_2", "deny")
        ended = await second.runs.finished(user_id, run.id)
        assert (ended.state, ended.text) == ("succeeded", "allow deny")
        kinds = [entry.type for entry in await log_of(second, run)]
    assert kinds.count("approval.requested") == kinds.count("approval.decided") == 2
    assert world.runtime.executions == [run.id]


async def twice(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield run.started()
    for _ in range(2):
        yield asks_for("apr_1")
    yield finished()


async def too_many(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield run.started()
    for number in range(APPROVALS_OPEN_MAX + 1):
        yield asks_for(f"apr_{number + 1}")
    yield finished()


async def decides_what_nobody_asked(
    run: ScriptedRun,
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield run.started()
    yield "approval.decided", {"approval_id": "apr_1", "decision": "allow", "by": "user"}
    yield finished()


@pytest.mark.parametrize("script", [twice, too_many, decides_what_nobody_asked])
async def test_a_sandbox_that_makes_approvals_up_is_not_believed(
    world: World, hutch: Hutch, user_id: str, script: Script
) -> None:
    world.runtime.script = script
    run = await hutch.runs.submit(user_id, NewRun("claude", "x", options=ASK))
    ended = await hutch.runs.finished(user_id, run.id)
    assert (ended.state, ended.error_code) == ("failed", "sandbox_misbehaved")


async def ends_without_a_decision(
    run: ScriptedRun,
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield run.started()
    yield asks_for("apr_1")
    yield finished()


async def test_what_was_never_decided_cannot_be_any_more(
    world: World, hutch: Hutch, user_id: str
) -> None:
    world.runtime.script = ends_without_a_decision
    run = await hutch.runs.submit(user_id, NewRun("claude", "x", options=ASK))
    await hutch.runs.finished(user_id, run.id)
    with pytest.raises(ApprovalDecided, match="never decided"):
        await hutch.runs.decide(user_id, run.id, "apr_1", "allow")
    [approval] = await hutch.runs.approvals(user_id, run.id)
    assert approval.decision is None


async def test_over_http(hutch: Hutch, api: Api, key: str) -> None:
    body = {"provider": "codex", "prompt": "2", "wait": 0, "permission_mode": "ask"}
    run = (await api("POST", "/v1/runs", key, json=body))[1]
    where = f"/v1/runs/{run['id']}/approvals"
    while len((await api("GET", where, key))[1]["approvals"]) < 2:
        await asyncio.sleep(0.01)
    reading = await hutch.accounts.create_key("user", run["user_id"], read_only=True)
    answers = [
        await api("POST", f"{where}/{approval_id}", asking_key, json={"decision": decision})
        for approval_id, decision, asking_key in (
            ("apr_1", "perhaps", key),
            ("apr_1", "allow", reading.text),
            ("apr_9", "allow", key),
            ("apr_1", "always", key),
            ("apr_1", "always", key),
            ("apr_1", "deny", key),
            ("apr_2", "deny", key),
        )
    ]
    told = [(status, said.get("error", {}).get("code", "")) for status, said in answers]
    assert told == [
        (400, "invalid_request"),
        (403, "read_only_key"),
        (404, "not_found"),
        *((200, "") for _ in range(2)),
        (409, "approval_decided"),
        (200, ""),
    ]
    whole = (await api("GET", f"/v1/runs/{run['id']}?wait=30", key))[1]
    assert (whole["text"], whole["options"]) == ("always deny", {"permission_mode": "ask"})
    first, second = (await api("GET", where, key))[1]["approvals"]
    assert (first["decision"], first["by"]) == ("always", "user")
    assert second["input"] == {"command": "touch x"}
    actions = [link.line for link in await hutch.audit.oldest(after=0, limit=100)]
    assert sum("/approvals/{approval_id}" in line and "always" in line for line in actions) == 2


async def test_auto_is_what_a_run_does_by_itself(world: World, api: Api, key: str) -> None:
    world.runtime.script = ends_without_a_decision
    body = {"provider": "gemini", "prompt": "x"}
    await api("POST", "/v1/runs", key, json={**body, "permission_mode": "auto"})
    assert world.runtime.bodies[-1].keys() == {"run_id", "prompt", "model", "session"}
    wrong = {**body, "permission_mode": "auto", "approval_timeout_s": 5}
    status, answer = await api("POST", "/v1/runs", key, json=wrong)
    assert (status, answer["error"]["code"]) == (400, "invalid_request")


async def test_an_operator_may_have_every_run_ask_that_says_nothing(world: World) -> None:
    world.settings = world.settings.model_copy(update={"permission_mode": "ask"})
    world.runtime.script = ends_without_a_decision
    told: tuple[tuple[PermissionMode | None, PermissionMode], ...] = (
        (None, "ask"),
        ("auto", "auto"),
        ("ask", "ask"),
    )
    async with world.orchestrator() as hutch:
        user_id = await new_user(hutch, "someone")
        for said, done in told:
            options = Options(permission_mode=said)
            run = await hutch.runs.submit(user_id, NewRun("claude", "0", options=options))
            assert run.options == {"permission_mode": done}
            assert (await hutch.runs.finished(user_id, run.id)).state == "succeeded"


async def test_an_older_runtime_is_not_asked_to_ask(world: World) -> None:
    world.runtime.is_old = True
    async with world.runtime.serving() as port:
        world.backend.port = port
        async with world.orchestrator() as hutch:
            user_id = await new_user(hutch, "someone")
            run = await hutch.runs.submit(user_id, NewRun("claude", "1", options=ASK))
            run = await hutch.runs.finished(user_id, run.id)
    assert (run.state, run.error_code) == ("failed", "not_supported")
    assert world.runtime.executions == []


async def test_a_run_that_waits_is_in_use(hutch: Hutch, user_id: str) -> None:
    run = await asking(hutch, user_id)
    assert (await hutch.runs.get(user_id, run.id)).state == "running"
    assert hutch.sandboxes.idle_since(await hutch.sandboxes.of(user_id)) is None
    await hutch.runs.decide(user_id, run.id, "apr_1", "allow")
    await hutch.runs.finished(user_id, run.id)
