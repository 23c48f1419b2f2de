"""Who may do what, and which credential a run uses."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from hutch.client import ApiError
from hutch_runtime.protocol import PROVIDERS, Provider
from tests.service import Service, User, fingerprint
from tests.wire import Wire

each_provider = pytest.mark.parametrize("provider", PROVIDERS)


def refusal(client: Wire, method: str, path: str, **options: Any) -> tuple[int, str]:
    with pytest.raises(ApiError) as refused:
        client.call(method, path, **options)
    assert refused.value.message
    assert refused.value.hint
    return refused.value.status, refused.value.code


@pytest.fixture(scope="module")
def other(service: Service) -> User:
    """Has no container: nothing of this module runs for them."""
    return service.make_user()


def test_what_is_a_users_is_nobody_elses(user: User, other: User) -> None:
    run = user.run("claude", "mine alone")
    for method, path in (
        ("GET", f"/v1/runs/{run['id']}"),
        ("GET", f"/v1/runs/{run['id']}/events"),
        ("POST", f"/v1/runs/{run['id']}/cancel"),
        ("GET", f"/v1/sessions/{run['session_id']}"),
        ("DELETE", f"/v1/sessions/{run['session_id']}"),
    ):
        assert refusal(other.client, method, path) == (404, "not_found")
        # Nor does the answer tell whether there is such a thing.
        nowhere = path.replace(run["id"][-6:], "zzzzzz").replace(run["session_id"][-6:], "zzzzzz")
        assert refusal(other.client, method, nowhere) == (404, "not_found")
    body = {"provider": "claude", "prompt": "[[recall]]", "session_id": run["session_id"]}
    assert refusal(other.client, "POST", "/v1/runs", json=body) == (404, "not_found")
    assert refusal(other.client, "GET", f"/v1/runs?before={run['id']}") == (404, "not_found")
    assert other.client.call("GET", "/v1/runs") == {"runs": [], "next": None}
    assert other.client.call("GET", "/v1/sessions") == {"sessions": []}
    assert refusal(other.client, "GET", "/v1/container") == (404, "not_found")
    assert refusal(other.client, "DELETE", "/v1/container") == (404, "not_found")


def test_a_service_key_acts_for_any_user(service: Service, user: User, other: User) -> None:
    key = service.admin.call("POST", "/v1/admin/service-keys")["key"]
    acting = service.client(key, user_id=user.id)
    run = acting.call("POST", "/v1/runs", json={"provider": "codex", "prompt": "for another"})
    assert run["user_id"] == user.id
    assert fingerprint(user.provider_keys["codex"]) in run["text"]
    assert user.client.get_run(run["id"])["id"] == run["id"]
    as_other = service.client(key, user_id=other.id)
    assert refusal(as_other, "GET", f"/v1/runs/{run['id']}") == (404, "not_found")
    assert refusal(service.client(key), "GET", "/v1/runs") == (400, "invalid_request")
    nobody = service.client(key, user_id="user_00000000000000000000")
    assert refusal(nobody, "GET", "/v1/runs") == (404, "not_found")
    assert refusal(service.client(key), "GET", "/v1/admin/users") == (403, "forbidden")


def test_a_user_key_acts_for_its_user_only(service: Service, user: User, other: User) -> None:
    acting = service.client(user.key, user_id=other.id)
    assert refusal(acting, "GET", "/v1/runs") == (403, "forbidden")
    assert service.client(user.key, user_id=user.id).call("GET", "/v1/runs")["runs"]


def test_admin_endpoints_refuse_user_keys(service: Service, user: User) -> None:
    with httpx2.Client(base_url=service.url, trust_env=False) as http:
        paths = http.get("/openapi.json").json()["paths"]
    admin = [(m, p) for p, methods in paths.items() if "/admin/" in p for m in methods]
    assert len(admin) >= 6
    for method, path in admin:
        mine = path.replace("{user_id}", user.id)
        assert refusal(user.client, method.upper(), mine, json={"name": "x"}) == (403, "forbidden")


def test_no_key_and_a_wrong_one(service: Service, user: User) -> None:
    for client in (
        service.client(""),
        service.client(user.key[:-1] + ("a" if user.key[-1] != "a" else "b")),
        service.client("hutch_user_short"),
        service.client(user.provider_keys["claude"]),
    ):
        assert refusal(client, "GET", "/v1/runs") == (401, "unauthorized")


@each_provider
def test_credentials_hold_from_the_next_run_on(service: Service, provider: Provider) -> None:
    user = service.make_user(credentials=False)
    body = {"provider": provider, "prompt": "with which key?"}
    assert refusal(user.client, "POST", "/v1/runs", json=body) == (422, "credential_missing")
    session: dict[str, str] = {}
    for key in ("a-first-key-of-mine", "a-second-key-of-mine"):
        stored = user.client.put_api_key(provider, key)
        assert key not in str(stored)
        run = user.run(provider, "with which key?", **session)
        assert f"key={fingerprint(key)} " in run["text"]
        session = {"session_id": run["session_id"]}
    credential = f"/v1/credentials/{provider}"
    user.client.call("DELETE", credential)
    assert refusal(user.client, "GET", credential) == (404, "not_found")
    body |= session
    assert refusal(user.client, "POST", "/v1/runs", json=body) == (422, "credential_missing")
    # The agent that still lives in the container cannot use it either.
    gateway = f"http://{service.address}:{service.settings.gateway_port}/{provider}/v1/models"
    asked = """
import json, sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(json.load(sys.stdin), timeout=10).status)
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode()]))
"""
    status, said = user.python(asked, stdin=gateway)
    assert status == 403
    assert "no credential" in said
    user.client.call("DELETE", "/v1/container")


@pytest.mark.parametrize(
    ("slot", "key", "belongs"),
    [
        ("codex", "sk-ant-api03-abcdefghijkl", "claude"),
        ("claude", "sk-proj-abcdefghijklmnop", "codex"),
        ("claude", "AIzaSyAbcdefghijklmnopqr", "gemini"),
        ("gemini", "sk-ant-api03-abcdefghijkl", "claude"),
    ],
)
def test_a_key_in_the_wrong_slot(other: User, slot: str, key: str, belongs: str) -> None:
    with pytest.raises(ApiError) as refused:
        other.client.put_api_key(slot, key)
    assert (refused.value.status, refused.value.code) == (400, "credential_malformed")
    assert f"`{belongs}`" in refused.value.message
    assert refused.value.hint == f"Store it with PUT /v1/credentials/{belongs}."
    assert key not in str(refused.value) + refused.value.hint


def test_a_deleted_user_leaves_nothing(service: Service) -> None:
    user = service.make_user()
    run = user.run("codex", "soon gone")
    name = user.container()
    service.admin.call("DELETE", f"/v1/admin/users/{user.id}")
    assert refusal(user.client, "GET", f"/v1/runs/{run['id']}") == (401, "unauthorized")
    assert name not in str(service.left_behind())
    listed = service.admin.call("GET", "/v1/admin/containers")["containers"]
    assert user.id not in [container["user_id"] for container in listed]


def test_the_api_describes_itself(service: Service) -> None:
    with httpx2.Client(base_url=service.url, trust_env=False) as http:
        described = http.get("/openapi.json").json()
        assert {"/v1/runs", "/v1/runs/{run_id}/events", "/v1/container"} <= set(described["paths"])
        docs = http.get("/docs")
        assert docs.status_code == 200
        assert docs.headers["content-type"].startswith("text/html")
        assert http.get("/healthz").json() == {"status": "ok"}
        ready = http.get("/readyz")
        assert (ready.status_code, set(ready.json().values())) == (200, {"ok"})
        nowhere = http.get("/v1/nowhere")
        assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (404, "not_found")
