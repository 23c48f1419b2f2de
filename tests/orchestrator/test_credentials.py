"""Credentials over HTTP, tried against the offline model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from hutch.app import Hutch
from hutch.config import Settings
from hutch.gateway.base import FakeGateway
from hutch.gateway.table import Route
from hutch_runtime.protocol import PROVIDERS, Provider
from tests.offline_model.server import running_offline_model
from tests.orchestrator.conftest import KEY, Api, World, run_to_end
from tests.orchestrator.runtime import ScriptedBackend, ScriptedRun, ScriptedRuntime, finished
from tests.service import fingerprint
from tests.vault.test_shapes import auth_json

NEW: dict[Provider, str] = {
    "claude": "sk-ant-api03-new-canary-9921",
    "codex": "sk-proj-new-canary-9921",
    "gemini": "AIzanew-canary-9921",
}


@pytest.fixture(scope="module")
def model_url() -> Iterator[str]:
    with running_offline_model() as url:
        yield url


@pytest.fixture
def model(model_url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=model_url, timeout=20, trust_env=False) as client:
        client.delete("/_control/requests")
        client.delete("/_control/behaviour")
        yield client


@pytest.fixture
async def world(tmp_path: Path, model_url: str) -> AsyncIterator[World]:
    """Whose providers are the offline model."""
    urls: dict[str, Any] = {f"{provider}_base_url": model_url for provider in PROVIDERS}
    settings = Settings(
        data_dir=tmp_path, pool_size=0, codex_login_base_url=model_url + "/chatgpt", **urls
    )
    runtime = ScriptedRuntime()
    async with runtime.serving() as port:
        backend = ScriptedBackend(port, settings.instance)
        yield World(settings, runtime, backend, FakeGateway())


def refuse(model: httpx2.Client, key: str, status: int = 401) -> None:
    model.post(
        "/_control/behaviour", json={"models": True, "status": status, "key": fingerprint(key)}
    )


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_verified_before_it_is_stored(
    api: Api, key: str, model: httpx2.Client, provider: Provider
) -> None:
    path = f"/v1/credentials/{provider}"
    body = {"api_key": NEW[provider]}
    status, stored = await api("PUT", f"{path}?verify=true", key, json=body)
    assert (status, stored["verified"]["result"]) == (200, "ok")
    assert (stored["last_result"], stored["last_four"]) == ("ok", "9921")
    assert stored["used_at"]
    seen = model.get("/_control/requests").json()["requests"]
    assert [request["key"] for request in seen] == [fingerprint(NEW[provider])]
    assert "canary" not in json.dumps(stored)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_what_the_provider_refuses_is_not_stored(
    hutch: Hutch, api: Api, key: str, model: httpx2.Client, *, user_id: str, provider: Provider
) -> None:
    refuse(model, NEW[provider])
    path = f"/v1/credentials/{provider}"
    before = (await api("GET", path, key))[1]
    status, answer = await api("PUT", f"{path}?verify=true", key, json={"api_key": NEW[provider]})
    assert (status, answer["error"]["code"]) == (422, "credential_rejected")
    assert "canary" not in json.dumps(answer)
    assert (await api("GET", path, key))[1] == before
    revealed = {c.provider: c.secret for c in await hutch.vault.reveal(user_id)}
    secret = revealed[provider]
    assert secret is not None
    assert secret.reveal() == KEY
    # Not asked, it is stored, and the test tells.
    assert (await api("PUT", path, key, json={"api_key": NEW[provider]}))[0] == 200
    status, tested = await api("POST", f"{path}/test", key)
    assert (status, tested["result"]) == (200, "rejected")
    assert (await api("GET", path, key))[1]["last_result"] == "rejected"


async def test_a_provider_that_is_down_or_busy_keeps_nobody_from_storing(
    api: Api, key: str, model: httpx2.Client
) -> None:
    for status, result in ((429, "rate_limited"), (503, "error")):
        model.delete("/_control/behaviour")
        refuse(model, NEW["claude"], status)
        answer = await api(
            "PUT", "/v1/credentials/claude?verify=true", key, json={"api_key": NEW["claude"]}
        )
        assert (answer[0], answer[1]["verified"]["result"]) == (200, result)


async def test_there_must_be_something_to_test(
    hutch: Hutch, api: Api, model: httpx2.Client
) -> None:
    del model
    user = await hutch.accounts.create_user("new", "free")
    key = (await hutch.accounts.create_key("user", user.id)).text
    assert (await api("POST", "/v1/credentials/claude/test", key))[0] == 404
    assert (await api("POST", "/v1/credentials/claude/test"))[0] == 401


@pytest.mark.parametrize("as_text", [True, False])
async def test_an_auth_json_as_text_or_as_it_is(
    world: World, hutch: Hutch, api: Api, key: str, user_id: str, *, as_text: bool
) -> None:
    text = auth_json(refresh_token="rt_canary")
    body = {"kind": "chatgpt", "auth_json": text if as_text else json.loads(text)}
    status, stored = await api("PUT", "/v1/credentials/codex?verify=true", key, json=body)
    assert (status, stored["kind"], stored["state"]) == (200, "login", "ok")
    assert stored["verified"]["result"] == "unchecked"
    assert "canary" not in json.dumps([stored, await api("GET", "/v1/credentials", key)])
    files, _ = await hutch.vault.login_files(user_id, "codex")
    assert json.loads(files[".codex/auth.json"]) == json.loads(text)
    assert (await api("POST", "/v1/credentials/codex/test", key))[1]["result"] == "unchecked"
    # At the gateway its own header passes, on the way to ChatGPT's endpoint.
    await hutch.sandboxes.ensure(user_id)
    [placeholder] = [s.env["HUTCH_PLACEHOLDER_KEY"] for s in world.backend.specs]
    entry = world.gateway.table.find("127.0.0.1", [placeholder])
    assert entry is not None
    assert entry.routes["codex"] == Route(
        world.settings.codex_login_base_url, (), strip="/v1", own_credential=True
    )
    assert not entry.routes["claude"].own_credential


@pytest.mark.parametrize(
    ("provider", "body", "says"),
    [
        ("claude", {}, "`api_key`"),
        ("claude", {"kind": "api_key", "session_token": "canary"}, "`api_key`"),
        ("claude", {"api_key": "canary-1", "session_token": "canary-2"}, "no other"),
        ("claude", {"kind": "session_token", "api_key": "canary"}, "`session_token`"),
        ("codex", {"kind": "chatgpt", "api_key": "canary"}, "`auth_json`"),
        ("codex", {"kind": "login", "auth_json": {}}, "kind"),
        ("codex", {"kind": "chatgpt", "auth_json": ["canary"]}, "auth_json"),
        ("codex", {"kind": "session_token", "session_token": "canary"}, "`codex`"),
        ("gemini", {"kind": "chatgpt", "auth_json": {"tokens": "canary"}}, "`codex`"),
        ("codex", {"kind": "chatgpt", "auth_json": {"tokens": {"id_token": "canary"}}}, "lack"),
        ("claude", {"api_key": "sk-ant-oat01-canary"}, "session token"),
        ("claude", {"kind": "session_token", "session_token": "sk-ant-api03-canary"}, "oat"),
    ],
)
async def test_a_body_that_is_not_right_is_explained(
    api: Api, key: str, provider: str, body: dict[str, Any], says: str
) -> None:
    status, answer = await api("PUT", f"/v1/credentials/{provider}", key, json=body)
    assert status == 400
    assert says in json.dumps(answer)
    assert "canary" not in json.dumps(answer)


async def test_a_session_token_is_refused_with_the_place_to_read(api: Api, key: str) -> None:
    body = {"kind": "session_token", "session_token": "sk-ant-oat01-canary"}
    status, answer = await api("PUT", "/v1/credentials/claude", key, json=body)
    assert (status, answer["error"]["code"]) == (403, "credential_not_allowed")
    assert "docs/legal.md" in answer["error"]["hint"]


@pytest.mark.parametrize(
    ("code", "result"),
    [
        (None, "ok"),
        ("provider_auth", "rejected"),
        ("provider_rate_limited", "rate_limited"),
        ("provider_unreachable", "unreachable"),
        ("provider_overloaded", "error"),
        ("agent_died", None),
    ],
)
async def test_a_run_tells_of_its_credential(
    world: World, hutch: Hutch, user_id: str, code: str | None, result: str | None
) -> None:
    async def script(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        yield run.started()
        error = {"code": code, "message": "as told"} if code else None
        yield finished("error" if code else "end_turn", error=error)

    world.runtime.script = script
    await run_to_end(hutch, user_id)
    async with asyncio.timeout(5):
        while (await hutch.vault.info(user_id, "claude")).last_result is None and result:
            await asyncio.sleep(0.01)
    info = await hutch.vault.info(user_id, "claude")
    assert info.last_result == result
    assert (info.used_at is None) == (result is None)
