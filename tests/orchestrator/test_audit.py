"""The audit log of a service: what gets a line, and what is found of those who change it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import delete, update

from hutch.app import Hutch
from hutch.audit.models import Entry
from hutch.errors import DatabaseUnavailable
from hutch.store.tables import audit_log
from tests.orchestrator.conftest import Api, World, new_user


@pytest.fixture
async def admin(hutch: Hutch) -> str:
    return (await hutch.accounts.create_key("admin")).text


async def lines_of(hutch: Hutch) -> list[dict[str, Any]]:
    return [json.loads(link.line) for link in await hutch.audit.oldest(after=0, limit=1000)]


async def test_changes_have_lines_before_they_are_answered(
    api: Api, hutch: Hutch, admin: str
) -> None:
    made = (await api("POST", "/v1/admin/users", admin, json={"name": "ada@example.org"}))[1]
    key = made["key"]
    secret = "sk-ant-api03-a-secret-canary-4711"
    await api("PUT", "/v1/credentials/claude", key, json={"api_key": secret})
    await api("PUT", "/v1/network", key, json={"allow": ["git.ada.example"]})
    new = (await api("POST", "/v1/keys", key, json={"name": "of ada"}))[1]
    await api("DELETE", f"/v1/keys/{new['id']}", key)
    await api("POST", "/v1/admin/pool", admin)  # no such method: nothing happens
    await api("GET", "/v1/admin/users", admin)
    await api("DELETE", "/v1/admin/users/ada@example.org", admin)
    lines = await lines_of(hutch)
    told = [(one["action"], one["target"], one["user"], one["scope"]) for one in lines]
    keys = await hutch.accounts.keys_of(made["id"])
    assert told == [
        ("service.started", {}, None, ""),
        (
            "POST /v1/admin/users",
            {"user_id": made["id"], "key_id": keys[0].id},
            None,
            "admin",
        ),
        ("PUT /v1/credentials/{provider}", {"provider": "claude"}, made["id"], "user"),
        ("PUT /v1/network", {}, made["id"], "user"),
        ("POST /v1/keys", {"new_key_id": new["id"]}, made["id"], "user"),
        ("DELETE /v1/keys/{key_id}", {"key_id": new["id"]}, made["id"], "user"),
    ]
    assert {one["source"] for one in lines[1:]} == {"127.0.0.1"}
    assert lines[2]["actor"] == keys[0].id
    for content in ("ada", "canary", "git."):
        assert content not in json.dumps(lines)
    # A user who goes takes nothing out of the chain.
    assert (await api("DELETE", f"/v1/admin/users/{made['id']}", admin))[0] == 200
    verdict = (await api("GET", "/v1/admin/audit/verify", admin))[1]
    assert (verdict["intact"], verdict["lines"]) == (True, 7)
    assert (await lines_of(hutch))[-1]["target"] == {"user_id": made["id"]}


async def test_runs_are_noted_off_the_way_and_refusals_counted(
    api: Api, hutch: Hutch, key: str, user_id: str
) -> None:
    run = (await api("POST", "/v1/runs", key, json={"provider": "claude", "prompt": "a b"}))[1]
    for n in range(3):
        assert (await api("POST", "/v1/admin/users", key, json={"name": "me"}))[0] == 403
        assert (await api("GET", "/v1/runs", f"hutch_user_wrong{n}"))[0] == 401
        assert (await api("POST", "/v1/runs", key, json={}))[0] == 400
    await hutch.audit.run()
    await hutch.audit.record(Entry("test"))
    told = {one["action"]: one for one in await lines_of(hutch)}
    assert told["POST /v1/runs"]["target"] == {"run_id": run["id"], "provider": "claude"}
    assert told["POST /v1/runs"]["user"] == user_id
    refused = told["POST /v1/admin/users"]
    assert (refused["result"], refused["times"]) == ("forbidden", 3)
    wrong = told["authentication"]
    assert (wrong["result"], wrong["times"], wrong["source"]) == ("unauthorized", 3, "127.0.0.1")
    assert "hutch_user_wrong" not in json.dumps(told)


async def test_what_was_done_to_the_table_is_found(api: Api, hutch: Hutch, admin: str) -> None:
    async def verdict(query: str = "") -> list[int]:
        answer = (await api("GET", f"/v1/admin/audit/verify{query}", admin))[1]
        assert answer["intact"] == (not answer["faults"])
        return [fault["seq"] for fault in answer["faults"]]

    for number in range(5):
        await hutch.audit.record(Entry(f"test.{number}"))
    assert await verdict() == []
    seq = audit_log.c.seq
    (kept,) = await hutch.audit.oldest(after=2, limit=1)
    await hutch.database.write(
        update(audit_log).where(seq == 3).values(line=kept.line.replace("test.1", "test.9"))
    )
    assert await verdict() == [3]
    assert await verdict("?first=4") == []
    await hutch.database.write(update(audit_log).where(seq == 3).values(line=kept.line))
    assert await verdict() == []
    await hutch.database.write(delete(audit_log).where(seq == 6))
    assert await verdict() == [6]  # the head that is kept elsewhere knows of six
    await hutch.database.write(delete(audit_log).where(seq == 2))
    assert await verdict() == [3, 6]


async def test_a_log_that_was_cut_while_nothing_ran_is_told_of(world: World) -> None:
    async with world.orchestrator() as hutch:
        for number in range(3):
            await hutch.audit.record(Entry(f"test.{number}"))
        await hutch.database.write(delete(audit_log).where(audit_log.c.seq > 2))
    async with world.orchestrator() as hutch:
        await hutch.audit.record(Entry("test.later"))
        verdict = await hutch.audit.verify()
        (fault,) = verdict.faults
        assert "cut short" in fault.what
        assert "'had': '4', 'has': '2'" in fault.what
        assert (await hutch.audit.verify(first=fault.seq + 1)).faults == []
        world.settings.audit_anchor_file.write_text("{}")
        assert [f.what for f in (await hutch.audit.verify(first=fault.seq + 1)).faults] == [
            "the anchor is missing, or was changed"
        ]


async def test_a_database_that_fails_loses_no_line(
    hutch: Hutch, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = hutch.audit._rows
    append = rows.append
    failures = ["before", "after"]

    async def failing(links: Any) -> None:
        how = failures.pop() if failures else ""
        if how == "before":
            raise DatabaseUnavailable("not stored")
        await append(links)
        if how == "after":  # and nobody knows
            raise DatabaseUnavailable("stored all the same")

    monkeypatch.setattr(rows, "append", failing)
    await hutch.audit.record(Entry("test.one"))
    await hutch.audit.record(Entry("test.two"))
    assert [one["action"] for one in await lines_of(hutch)] == [
        *("service.started", "test.one", "test.two")
    ]
    assert (await hutch.audit.verify()).faults == []


async def test_pages_go_both_ways(api: Api, hutch: Hutch, admin: str) -> None:
    for number in range(5):
        hutch.audit.note(Entry(f"test.{number}"))
    await hutch.audit.record(Entry("test.last"))

    async def seqs(query: str) -> list[int]:
        answer = (await api("GET", f"/v1/admin/audit?{query}", admin))[1]
        return [line["seq"] for line in answer["lines"]]

    assert await seqs("limit=3") == [7, 6, 5]
    assert await seqs("limit=3&before=5") == [4, 3, 2]
    assert await seqs("limit=3&after=5") == [6, 7]
    user = (await hutch.accounts.create_key("user", await new_user(hutch, "someone"))).text
    assert (await api("GET", "/v1/admin/audit", user))[0] == 403
