"""What a run may ask for besides its prompt, from the request to the runtime."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import func, select

from hutch.app import Hutch
from hutch.runs.service import NewRun
from hutch.store.tables import run_attachments
from hutch_runtime.protocol import ATTACHMENTS_MAX_BYTES, Attachment, Options
from tests.orchestrator.conftest import Api, World, new_user
from tests.orchestrator.runtime import (
    ScriptedRun,
    answers,
    finished,
    waits_for_cancel,
    waits_for_release,
)

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
OPTIONS: dict[str, Any] = {
    "system_prompt": "be an otter",
    "append_system_prompt": "and swim",
    "max_turns": 3,
    "max_cost_usd": 0.5,
    "output_schema": SCHEMA,
}
NOTE = {"name": "note.txt", "media_type": "text/plain", "data": "aGVsbG8="}


async def ask(api: Api, key: str, **asked: Any) -> tuple[int, Any]:
    body = json.dumps({"provider": "claude", "prompt": "x", **asked}).encode()
    headers = {"content-type": "application/json"}
    return await api("POST", "/v1/runs", key, data=io.BytesIO(body), headers=headers)


async def stored(hutch: Hutch) -> int:
    row = await hutch.database.first(select(func.count()).select_from(run_attachments))
    return int(row[0]) if row is not None else 0


async def test_options_and_attachments_reach_the_runtime(
    world: World, hutch: Hutch, api: Api, key: str
) -> None:
    status, run = await ask(api, key, **OPTIONS, attachments=[NOTE])
    assert (status, run["state"]) == (200, "succeeded")
    body = world.runtime.bodies[-1]
    schema = body["options"].pop("output_schema")
    assert body["options"] | {"output_schema": SCHEMA} == OPTIONS
    assert '"type": "object"' in schema
    assert body["attachments"] == [NOTE]
    whole = (await api("GET", f"/v1/runs/{run['id']}", key))[1]
    assert whole["options"] == OPTIONS
    assert whole["attachments"] == [{"name": "note.txt", "media_type": "text/plain", "bytes": 5}]
    assert await stored(hutch) == 0  # no longer than they are needed


async def test_a_plain_run_asks_what_an_older_runtime_knows(
    world: World, api: Api, key: str
) -> None:
    await ask(api, key)
    assert world.runtime.bodies[-1].keys() == {"run_id", "prompt", "model", "session"}


async def test_an_older_runtime_is_not_asked_to_guess(world: World) -> None:
    world.runtime.is_old = True
    async with world.runtime.serving() as port:
        world.backend.port = port
        async with world.orchestrator() as hutch:
            user_id = await new_user(hutch, "someone")
            new = NewRun("claude", "x", options=Options(max_turns=1))
            run = await hutch.runs.submit(user_id, new)
            run = await hutch.runs.finished(user_id, run.id)
    assert (run.state, run.error_code) == ("failed", "not_supported")
    assert "older image" in (run.error_message or "")
    assert world.runtime.executions == []


async def test_what_a_cli_cannot_do_is_refused_by_name(world: World, api: Api, key: str) -> None:
    cases = [*(("gemini", name) for name in OPTIONS), ("codex", "max_turns")]
    for provider, option in (*cases, ("codex", "max_cost_usd")):
        status, answer = await ask(api, key, provider=provider, **{option: OPTIONS[option]})
        assert (status, answer["error"]["code"]) == (400, "not_supported")
        assert provider in answer["error"]["message"]
        assert option in answer["error"]["message"]
    assert world.backend.specs == []


async def test_codex_takes_instructions_with_the_first_run_of_a_session(api: Api, key: str) -> None:
    told = {"provider": "codex", "append_system_prompt": "be an otter"}
    status, run = await ask(api, key, **told)
    assert status == 200
    status, answer = await ask(api, key, **told, session_id=run["session_id"])
    assert (status, answer["error"]["code"]) == (400, "not_supported")
    assert "first run" in answer["error"]["message"]


MALFORMED: list[dict[str, Any]] = [
    {"max_turns": 0},
    {"max_turns": 1.5},
    {"max_cost_usd": 0},
    {"max_cost_usd": "much"},
    {"system_prompt": ""},
    {"append_system_prompt": "x" * 70_000},
    {"output_schema": {"type": "array"}},
    {"output_schema": []},
    {"attachments": [{**NOTE, "name": "../note.txt"}]},
    {"attachments": [{**NOTE, "name": "note\u0000.txt"}]},
    {"attachments": [{**NOTE, "data": "???"}]},
    {"attachments": [NOTE, NOTE]},
    {"attachments": [{**NOTE, "name": str(n)} for n in range(11)]},
    {"attachments": [{**NOTE, "data": "AAAA" * (ATTACHMENTS_MAX_BYTES // 3 + 1)}]},
]


async def test_what_is_malformed_is_refused(api: Api, key: str) -> None:
    for asked in MALFORMED:
        status, answer = await ask(api, key, **asked)
        assert (status, answer["error"]["code"]) == (400, "invalid_request"), [*asked]


async def test_the_largest_attachments_are_taken(world: World, api: Api, key: str) -> None:
    content = base64.b64encode(bytes(ATTACHMENTS_MAX_BYTES)).decode()
    status, run = await ask(api, key, attachments=[{**NOTE, "data": content}])
    assert (status, run["state"]) == (200, "succeeded")
    assert world.runtime.bodies[-1]["attachments"][0]["data"] == content


async def test_a_repeat_with_another_attachment_is_another_request(api: Api, key: str) -> None:
    headers = {"idempotency-key": "one"}

    async def once(data: str) -> tuple[int, Any]:
        body = {"provider": "claude", "prompt": "x", "attachments": [{**NOTE, "data": data}]}
        return await api("POST", "/v1/runs", key, json=body, headers=headers)

    first = (await once("aGVsbG8="))[1]["id"]
    assert (await once("aGVsbG8="))[1]["id"] == first
    assert (await once("aGVsbG9v"))[1]["error"]["code"] == "idempotency_mismatch"


async def test_attachments_of_a_run_that_waits_survive_a_restart(world: World) -> None:
    world.runtime.script = waits_for_release
    async with world.orchestrator() as first:
        user_id = await new_user(first, "someone")
        going = await first.runs.submit(user_id, NewRun("claude", "first"))
        attachment = Attachment("note.txt", "text/plain", b"hello")
        waiting = await first.runs.submit(
            user_id,
            NewRun("claude", "second", session_id=going.session_id, attachments=(attachment,)),
        )
    async with world.orchestrator() as second:
        world.runtime.release.set()
        await second.runs.finished(user_id, waiting.id)
    assert world.runtime.bodies[-1]["attachments"] == [NOTE]


async def costs_too_much(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """And does not stop by itself."""
    yield run.started()
    yield (
        "usage",
        {"input_tokens": 1, "output_tokens": 1, "cached_tokens": 0, "cost_usd": 2.5},
    )
    await run.cancelled.wait()
    yield finished("cancelled")


async def test_a_run_that_costs_too_much_is_ended(world: World, api: Api, key: str) -> None:
    world.runtime.script = costs_too_much
    status, run = await ask(api, key, max_cost_usd=1)
    assert (status, run["stop_reason"], run["error"]) == (200, "max_cost", None)
    world.runtime.deaf_to_cancel = False


async def test_cancel_works_while_a_run_waits_for_its_session(
    world: World, api: Api, key: str
) -> None:
    world.runtime.script = waits_for_cancel
    first = (await ask(api, key, wait=0))[1]
    second = (await ask(api, key, wait=0, session_id=first["session_id"]))[1]
    await api("POST", f"/v1/runs/{second['id']}/cancel", key)
    ended = (await api("GET", f"/v1/runs/{second['id']}?wait=30", key))[1]
    assert (ended["state"], ended["started_at"]) == ("cancelled", None)
    await api("POST", f"/v1/runs/{first['id']}/cancel", key)
    assert (await api("GET", f"/v1/runs/{first['id']}?wait=30", key))[1]["state"] == "cancelled"
    again = (await api("POST", f"/v1/runs/{first['id']}/cancel", key))[1]
    assert again["state"] == "cancelled"


CHANGED = {
    "files": [
        {"path": "a", "change": "added", "size_before": None, "size_after": 2, "in_diff": True}
    ],
    "diff": "--- /dev/null\n+++ b/a\n@@ -0,0 +1 @@\n+x\n",
    "complete": True,
}


async def test_a_run_tells_what_it_changed(
    world: World, api: Api, key: str, hutch: Hutch, user_id: str
) -> None:
    async def changes(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        yield run.started()
        yield "files.changed", CHANGED
        yield finished()

    world.runtime.script = changes
    body = {"provider": "claude", "prompt": "x", "diff": True}
    status, run = await api("POST", "/v1/runs", key, json=body)
    assert (status, run["state"]) == (200, "succeeded")
    assert world.runtime.bodies[-1]["options"] == {"diff": True}
    assert await api("GET", f"/v1/runs/{run['id']}/diff", key) == (200, CHANGED)
    await hutch.sandboxes.destroy(user_id)  # it is kept with the run
    assert (await api("GET", f"/v1/runs/{run['id']}/diff", key))[0] == 200
    other = (await hutch.accounts.create_key("user", await new_user(hutch, "other"))).text
    assert (await api("GET", f"/v1/runs/{run['id']}/diff", other))[0] == 404
    world.runtime.script = answers
    status, run = await api("POST", "/v1/runs", key, json={"provider": "claude", "prompt": "x"})
    assert world.runtime.bodies[-1].get("options") is None
    assert (await api("GET", f"/v1/runs/{run['id']}/diff", key))[0] == 404
    world.runtime.script = waits_for_cancel
    status, run = await api("POST", "/v1/runs", key, json={**body, "wait": 0})
    assert (await api("GET", f"/v1/runs/{run['id']}/diff", key))[0] == 409
    await api("POST", f"/v1/runs/{run['id']}/cancel", key)
    await hutch.runs.finished(user_id, run["id"])
