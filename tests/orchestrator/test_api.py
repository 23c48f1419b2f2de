"""The HTTP side, over a real socket: who may what, and how it says no."""

from __future__ import annotations

import asyncio
import io
import json

import pytest

from hutch.app import Hutch
from hutch_runtime.protocol import PROMPT_MAX_BYTES
from tests.orchestrator.conftest import Api, World, new_user
from tests.orchestrator.runtime import waits_for_cancel


async def test_a_run_over_http(api: Api, key: str) -> None:
    status, run = await api("POST", "/v1/runs", key, json={"provider": "claude", "prompt": "a b"})
    assert (status, run["state"], run["text"]) == (200, "succeeded", "a b")
    assert run["created_at"].endswith("+00:00")
    status, again = await api("GET", f"/v1/runs/{run['id']}", key)
    assert (status, again["prompt"], again["usage"]) == (200, "a b", run["usage"])
    status, stream = await api("GET", f"/v1/runs/{run['id']}/events", key)
    events = [json.loads(line[5:]) for line in stream.split("\n") if line.startswith("data:")]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    status, rest = await api(
        "GET", f"/v1/runs/{run['id']}/events", key, headers={"last-event-id": "2"}
    )
    assert rest == stream[stream.index("id: 3\n") :]
    status, sessions = await api("GET", "/v1/sessions", key)
    assert [s["id"] for s in sessions["sessions"]] == [run["session_id"]]
    assert (await api("DELETE", f"/v1/sessions/{run['session_id']}", key))[0] == 204
    assert (await api("GET", f"/v1/runs/{run['id']}", key))[0] == 404


async def test_a_container_says_what_it_may_use_and_what_it_does(
    world: World, api: Api, key: str
) -> None:
    sizes = {"bytes": 60 << 20, "used_bytes": 5, "files": 100, "used_files": 2}
    world.runtime.health["disk"] = {
        "workspace": sizes,
        "home": {**sizes, "files": 0},
        "tmp": {**sizes, "used_bytes": True},
        "/etc": sizes,
    }
    await api("POST", "/v1/runs", key, json={"provider": "claude", "prompt": "x"})
    _, container = await api("GET", "/v1/container", key)
    quotas = container["quotas"]
    told = [(disk["place"], disk["limit_files"], disk["used_files"]) for disk in quotas["disk"]]
    assert told == [("workspace", 100, 2), ("home", None, None)]
    assert quotas["memory"]["hard_bytes"] == 1024 << 20
    assert quotas["runs"] == {
        "at_once": 2,
        "waiting": 100,
        "timeout_s": 600,
        "timeout_max_s": 3600,
        "output_bytes": 8 << 20,
    }
    assert quotas["egress"] == {"mb_per_s": 20, "connections": 128}


async def test_a_stream_over_http(api: Api, key: str) -> None:
    body = {"provider": "claude", "prompt": "one two", "stream": True}
    status, stream = await api("POST", "/v1/runs", key, json=body)
    assert status == 200
    assert stream.startswith("id: 1\nevent: queued\n")  # a container is made
    assert "\n\nid: 2\nevent: run.started\n" in stream
    assert "event: run.finished" in stream


async def test_cancel_over_http(world: World, api: Api, key: str) -> None:
    world.runtime.script = waits_for_cancel
    body = {"provider": "claude", "prompt": "x"}
    waiting = asyncio.create_task(api("POST", "/v1/runs", key, json=body))
    run_id = ""
    while not run_id:
        await asyncio.sleep(0.02)
        runs = (await api("GET", "/v1/runs", key))[1]["runs"]
        run_id = runs[0]["id"] if runs else ""
    await api("POST", f"/v1/runs/{run_id}/cancel", key)
    assert (await waiting)[1]["state"] == "cancelled"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/runs"),
        ("POST", "/v1/runs"),
        ("GET", "/v1/sessions"),
        ("GET", "/v1/container"),
        ("DELETE", "/v1/container"),
        ("GET", "/v1/credentials"),
        ("PUT", "/v1/credentials/claude"),
        ("GET", "/v1/admin/users"),
        ("POST", "/v1/admin/users"),
        ("GET", "/v1/admin/containers"),
        ("GET", "/v1/admin/tasks"),
        ("GET", "/metrics"),
    ],
)
async def test_nothing_without_a_key(api: Api, method: str, path: str) -> None:
    for key in ("", "hutch_user_wrong", "\u00ff"):
        status, answer = await api(method, path, key)
        assert (status, answer["error"]["code"]) == (401, "unauthorized")


async def test_each_key_has_its_reach(hutch: Hutch, api: Api, key: str, user_id: str) -> None:
    other = await new_user(hutch, "somebody else")
    service = (await hutch.accounts.create_key("service")).text
    admin = (await hutch.accounts.create_key("admin")).text
    as_user = {"headers": {"x-hutch-user": user_id}}
    as_other = {"headers": {"x-hutch-user": other}}
    assert (await api("GET", "/v1/runs", key, **as_user))[0] == 200
    assert (await api("GET", "/v1/runs", key, **as_other))[0] == 403
    assert (await api("GET", "/v1/runs", service, **as_other))[0] == 200
    assert (await api("GET", "/v1/runs", service))[0] == 400
    status, _ = await api("GET", "/v1/runs", service, headers={"x-hutch-user": "user_nobody"})
    assert status == 404
    for path in ("/v1/admin/users", "/v1/admin/containers", "/v1/admin/tasks"):
        assert (await api("GET", path, key))[0] == 403
        assert (await api("GET", path, service))[0] == 403
        assert (await api("GET", path, admin))[0] == 200


async def test_users_come_and_go(hutch: Hutch, api: Api) -> None:
    admin = (await hutch.accounts.create_key("admin")).text
    status, made = await api("POST", "/v1/admin/users", admin, json={"name": "zoe"})
    assert (status, made["tier"]) == (201, "free")
    status, answer = await api("POST", "/v1/admin/users", admin, json={"name": "zoe"})
    assert (status, answer["error"]["code"]) == (409, "conflict")
    for bad in ({"name": ""}, {"name": "a\nb"}, {"name": "x", "tier": "gold"}, {"nome": "x"}):
        assert (await api("POST", "/v1/admin/users", admin, json=bad))[0] == 400
    assert (await api("GET", "/v1/runs", made["key"]))[0] == 200
    status, gone = await api("DELETE", f"/v1/admin/users/{made['id']}", admin)
    assert (status, gone["name"], gone["api_keys"]) == (200, "zoe", 1)
    assert (await api("GET", "/v1/runs", made["key"]))[0] == 401


async def test_credentials_are_write_only(api: Api, key: str) -> None:
    secret = "sk-ant-api03-canary-5521"
    body = {"api_key": secret}
    status, answer = await api("PUT", "/v1/credentials/claude", key, json=body)
    assert (status, answer["last_four"]) == (200, "5521")
    seen = json.dumps([answer, await api("GET", "/v1/credentials", key)])
    assert secret not in seen
    status, answer = await api("PUT", "/v1/credentials/codex", key, json=body)
    assert (status, answer["error"]["code"]) == (400, "credential_malformed")
    assert secret not in json.dumps(answer)
    for bad in ({"api_key": [secret]}, {"apikey": secret}):
        status, answer = await api("PUT", "/v1/credentials/claude", key, json=bad)
        assert status == 400
        assert secret not in json.dumps(answer)
    assert (await api("DELETE", "/v1/credentials/claude", key))[0] == 204
    assert (await api("GET", "/v1/credentials/claude", key))[0] == 404
    run = {"provider": "claude", "prompt": "x"}
    status, answer = await api("POST", "/v1/runs", key, json=run)
    assert (status, answer["error"]["code"]) == (422, "credential_missing")


async def test_sizes_are_bounded(api: Api, key: str) -> None:
    for size, expected in (
        (PROMPT_MAX_BYTES + 1, "prompt_too_large"),
        (2**24, "request_too_large"),
    ):
        body = json.dumps({"provider": "claude", "prompt": "x" * size}).encode()
        status, answer = await api(
            "POST",
            "/v1/runs",
            key,
            data=io.BytesIO(body),
            headers={"content-type": "application/json"},
        )
        assert (status, answer["error"]["code"]) == (413, expected)


async def test_errors_have_one_shape(api: Api, key: str) -> None:
    for method, path, status in (
        ("GET", "/nope", 404),
        ("PATCH", "/v1/runs", 405),
        ("GET", "/v1/runs/run_nope", 404),
        ("GET", "/v1/runs?limit=0", 400),
        ("GET", "/v1/runs?before=x", 404),
        ("GET", "/v1/credentials/cursor", 400),
        ("GET", "/v1/container", 404),
    ):
        got, answer = await api(method, path, key)
        assert got == status, path
        assert set(answer["error"]) == {"code", "message", "hint"}, path


async def test_health_and_documents(api: Api) -> None:
    assert (await api("GET", "/healthz"))[1] == {"status": "ok"}
    assert (await api("GET", "/readyz"))[0] == 200
    assert "/v1/runs" in (await api("GET", "/openapi.json"))[1]["paths"]
    assert (await api("GET", "/docs"))[0] == 200
