"""Looking at requests, and behaviours set from outside."""

from __future__ import annotations

import hashlib

import httpx2

from tests.offline_model.requests import KEY, ask, send


def test_requests_are_recorded_without_the_key(http: httpx2.Client) -> None:
    send(http, "claude", ask("claude", "héllo"))
    asked = ask("gemini", "hi")
    http.post(f"{asked.path}?key=sk-in-the-query", json=asked.body)
    listing = http.get("/_control/requests")
    first, second = listing.json()["requests"]
    assert first == {
        "method": "POST",
        "path": "/v1/messages",
        "key": hashlib.sha256(KEY.encode()).hexdigest()[:8],
        "peer": "127.0.0.1",
        "kind": "turn",
        "model": "m",
        "text_sha256": hashlib.sha256("héllo".encode()).hexdigest(),
        "text_chars": 5,
        "status": 200,
        "disconnected_early": False,
    }
    assert second["key"] == hashlib.sha256(b"sk-in-the-query").hexdigest()[:8]
    assert KEY not in listing.text
    assert "sk-in-the-query" not in listing.text
    assert http.delete("/_control/requests").json() == {"requests": []}


def test_records_are_bounded(http: httpx2.Client) -> None:
    for _ in range(105):
        http.get("/v1/models")
    assert len(http.get("/_control/requests").json()["requests"]) == 100


def test_a_behaviour_matches_counts_down_and_is_cleared(http: httpx2.Client) -> None:
    def status(text: str) -> int:
        return send(http, "codex", ask("codex", text)).status_code

    http.post("/_control/behaviour", json={"match": "fragile", "status": 429, "times": 2})
    assert [status("fragile"), status("sturdy"), status("fragile"), status("fragile")] == [
        429,
        200,
        429,
        200,
    ]
    http.post("/_control/behaviour", json={"status": 503})
    assert status("anything") == 503
    http.delete("/_control/behaviour")
    assert status("anything") == 200


def test_a_behaviour_for_one_key(http: httpx2.Client) -> None:
    key = hashlib.sha256(KEY.encode()).hexdigest()[:8]
    http.post("/_control/behaviour", json={"key": key, "status": 401})
    asked = ask("claude", "hi")
    assert send(http, "claude", asked).status_code == 401
    assert http.post(asked.path, json=asked.body, headers={"x-api-key": "b"}).status_code == 200


def test_a_misspelt_behaviour_is_refused(http: httpx2.Client) -> None:
    for body in ({"statsu": 429}, {"status": 200}, {"slow": {"tokens": 0, "ms": 1}}):
        assert http.post("/_control/behaviour", json=body).status_code == 400


def test_a_behaviour_for_lists_of_models_leaves_turns_alone(http: httpx2.Client) -> None:
    http.post("/_control/behaviour", json={"models": True, "status": 401, "times": 3})
    assert send(http, "claude", ask("claude", "hello")).status_code == 200
    for path in ("/v1/models", "/v1beta/models", "/v1/models"):
        assert http.get(path).status_code == 401
    assert http.get("/v1/models").status_code == 200
