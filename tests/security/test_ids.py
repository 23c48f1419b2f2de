"""Another user's things by their ids, through every endpoint there is; and by what is not an id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from hutch.api.app import create_app
from tests.security.conftest import Attempt, Hall
from tests.service import User

SECRET = "the-secret-of-a-user"
NOT_AN_ID = ["..%2f..", "%00", "run_%27%20OR%201=1", "null", "%ff", "a" * 3000, "run_*", "{}"]


def endpoints() -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Method, path, operation and the document's shapes; nothing is left out."""

    def never() -> Any:
        raise AssertionError("nothing is served here")

    document = create_app(never).openapi()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation, document["components"]["schemas"]


ENDPOINTS = list(endpoints())
WITH_IDS = [e for e in ENDPOINTS if "_id}" in e[1]]


class Belongings:
    """What a user has, by the names that paths have for it."""

    def __init__(self, hall: Hall) -> None:
        user = self.user = hall.user("a")
        run = user.run("codex", f"remember {SECRET}")
        hook = {"url": "https://example.org/secret-hook", "events": ["run.failed"]}
        call = user.client.call
        self.webhook = call("POST", "/v1/webhooks", json=hook)
        key = call("POST", "/v1/keys", json={"name": SECRET})
        self.ids = {
            "run_id": run["id"],
            "approval_id": "apr_1",
            "response_id": "resp_" + run["id"].removeprefix("run_"),
            "session_id": run["session_id"],
            "user_id": user.id,
            "container_id": user.client.container()["id"],
            "webhook_id": self.webhook["id"],
            "message_id": "msg_00000000000000000000",
            "key_id": key["id"],
            "exit_id": "exit_00000000000000000000",
            "terminal_id": call("POST", "/v1/terminals", json={"command": ["sleep", "900"]})["id"],
        }

    def all_there(self) -> None:
        call = self.user.client.call
        assert SECRET in call("GET", f"/v1/runs/{self.ids['run_id']}")["prompt"]
        assert call("GET", f"/v1/sessions/{self.ids['session_id']}")["id"]
        assert call("GET", f"/v1/webhooks/{self.ids['webhook_id']}") == without_secret(self.webhook)
        assert any(key["id"] == self.ids["key_id"] for key in call("GET", "/v1/keys")["keys"])
        assert call("GET", "/v1/container")["id"] == self.ids["container_id"]
        terminals = call("GET", "/v1/terminals")["terminals"]
        assert [one["id"] for one in terminals] == [self.ids["terminal_id"]]


def without_secret(webhook: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in webhook.items() if name != "secret"}


@pytest.fixture(scope="module")
def theirs(hall: Hall) -> Belongings:
    return Belongings(hall)


@pytest.fixture(scope="module")
def other(hall: Hall) -> User:
    return hall.service.make_user(credentials=False)


def ask(hall: Hall, user: User, method: str, path: str, **options: Any) -> httpx2.Response:
    headers = {"authorization": f"Bearer {user.key}", **options.pop("headers", {})}
    with httpx2.Client(base_url=hall.service.url, timeout=20) as client:
        return client.request(method, path, headers=headers, **options)


def body_for(operation: dict[str, Any], shapes: dict[str, Any]) -> Any:
    """The least that its shape takes."""
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema")
    return None if schema is None else _value(schema, shapes)


def _value(schema: dict[str, Any], shapes: dict[str, Any]) -> Any:
    if "$ref" in schema:
        return _value(shapes[schema["$ref"].rpartition("/")[2]], shapes)
    for choices in ("anyOf", "oneOf", "allOf"):
        if choices in schema:
            return _value(schema[choices][0], shapes)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    match schema.get("type"):
        case "object":
            needed = schema.get("required", ())
            return {name: _value(schema["properties"][name], shapes) for name in needed}
        case "array":
            return []
        case "integer" | "number":
            return max(1, schema.get("minimum", 1))
        case "boolean":
            return False
    return "x"


@pytest.mark.parametrize("endpoint", WITH_IDS, ids=lambda one: f"{one[0]} {one[1]}")
def test_by_anothers_id(
    hall: Hall,
    theirs: Belongings,
    other: User,
    endpoint: tuple[str, str, dict[str, Any], dict[str, Any]],
    attempt: Attempt,
) -> None:
    method, path, operation, shapes = endpoint
    attempt.tries = f"as another user: {method} {path}"
    answer = ask(hall, other, method, path.format(**theirs.ids), json=body_for(operation, shapes))
    attempt.came = str(answer.status_code)
    assert answer.status_code == (403 if path.startswith("/v1/admin") else 404), answer.text
    assert SECRET not in answer.text
    theirs.all_there()


@pytest.mark.parametrize("endpoint", [e[:2] for e in ENDPOINTS if "_id}" not in e[1]], ids=" ".join)
def test_without_an_id_nothing_of_another_is_told(
    hall: Hall, theirs: Belongings, other: User, endpoint: tuple[str, str], attempt: Attempt
) -> None:
    method, path = endpoint
    attempt.tries = f"as another user: {method} {path}"
    if method != "GET":
        options: dict[str, Any] = {"json": dict.fromkeys(("run_id",), theirs.ids["run_id"])}
    else:
        options = {"params": {"session_id": theirs.ids["session_id"], "user_id": theirs.user.id}}
    if (method, path) in {("GET", "/metrics"), ("PUT", "/v1/container")}:
        options = {}  # one of the operator's own, and one that would wait for a container
    answer = ask(hall, other, method, path.replace("{provider}", "claude"), **options)
    attempt.came = str(answer.status_code)
    assert answer.status_code < 500 or path == "/readyz"
    assert SECRET not in answer.text
    told = [name for name, value in theirs.ids.items() if value in answer.text]
    assert told == [] or answer.status_code >= 400  # what was asked for may be repeated
    theirs.all_there()


def test_in_bodies_headers_and_queries(
    hall: Hall, theirs: Belongings, other: User, attempt: Attempt
) -> None:
    attempt.tries = "another's session, ticket and name in bodies, headers and queries"
    credential = {"kind": "api_key", "api_key": "sk-proj-" + "x" * 40}
    ask(hall, other, "PUT", "/v1/credentials/codex", json=credential)
    run = {"provider": "codex", "prompt": "x", "session_id": theirs.ids["session_id"]}
    assert ask(hall, other, "POST", "/v1/runs", json=run).status_code == 404
    ticket = {"run_id": theirs.ids["run_id"]}
    assert ask(hall, other, "POST", "/v1/tickets", json=ticket).status_code == 404
    acting = {"x-hutch-user": theirs.user.id}
    assert ask(hall, other, "GET", "/v1/runs", headers=acting).status_code == 403
    for query in (f"session_id={theirs.ids['session_id']}", f"before={theirs.ids['run_id']}"):
        answer = ask(hall, other, "GET", f"/v1/runs?{query}")
        assert answer.status_code in {200, 400, 404}
        assert answer.status_code != 200 or json.loads(answer.text)["runs"] == []
    theirs.all_there()
    attempt.came = "404, 403, or nothing"


@pytest.mark.parametrize("text", NOT_AN_ID, ids=range(len(NOT_AN_ID)))
def test_by_what_is_no_id(hall: Hall, other: User, text: str, attempt: Attempt) -> None:
    attempt.tries = f"an id that is none: {text[:20]}"
    for method, path, operation, shapes in WITH_IDS:
        if path.startswith("/v1/admin"):
            continue
        names = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
        filled = path.format(**dict.fromkeys(names, text))
        answer = ask(hall, other, method, filled, json=body_for(operation, shapes))
        assert answer.status_code in {400, 404, 405, 414, 422}, (method, path, answer.text)
    attempt.came = "404"
