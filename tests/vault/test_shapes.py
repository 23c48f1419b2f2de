"""What is pasted into the wrong slot is explained, and never repeated."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.errors import CredentialMalformed
from hutch.vault.shapes import AUTH_JSON_MAX, check_api_key, check_auth_json, check_session_token
from hutch_runtime.protocol import PROVIDERS, Provider

TOKENS = {
    "id_token": "eyJ.id",
    "access_token": "eyJ.access",
    "refresh_token": "rt_refresh",
    "account_id": "acct",
}


def auth_json(**changes: Any) -> str:
    tokens = {name: value for name, value in {**TOKENS, **changes}.items() if value is not None}
    return json.dumps({"OPENAI_API_KEY": None, "tokens": tokens, "last_refresh": "2026-11-23"})


@pytest.mark.parametrize(
    ("provider", "key", "says"),
    [
        ("codex", "sk-ant-api03-abcdefgh", "PUT /v1/credentials/claude"),
        ("claude", "sk-proj-abcdefgh", "PUT /v1/credentials/codex"),
        ("claude", "AIzaSyAbcdefgh", "PUT /v1/credentials/gemini"),
        ("codex", "AQ.abcdefghij", "PUT /v1/credentials/gemini"),
        ("claude", "sk-ant-oat01-abcdefgh", '"kind": "session_token"'),
        ("codex", "sk-ant-oat01-abcdefgh", '"kind": "session_token"'),
        ("claude", "sk-ant-ort01-abcdefgh", "hutch login claude"),
        ("claude", "sk-ant-sid01-abcdefgh", "Give it to nobody"),
        ("claude", "sk-ant-admin01-abcdefgh", "ordinary API key"),
        ("codex", "eyJhbGciOiJSUzI1NiJ9.abc", "`chatgpt`"),
        ("gemini", "ya29.a0AfH6SMB", "aistudio.google.com"),
        ("codex", '{"tokens": {}}', "`chatgpt`"),
        ("claude", "  ", "whole"),
        ("claude", "two words", "alone"),
        ("claude", "line\nbreak", "alone"),
        ("claude", "x" * 5000, "alone"),
        ("claude", "n\u00f6t-ascii", "alone"),
    ],
)
def test_no_api_key(provider: Provider, key: str, says: str) -> None:
    with pytest.raises(CredentialMalformed) as raised:
        check_api_key(provider, key)
    assert says in raised.value.hint
    assert key.strip()[-8:] not in raised.value.message + raised.value.hint or not key.strip()


@pytest.mark.parametrize(
    ("provider", "key"),
    [
        ("claude", "sk-ant-api03-abc"),
        ("codex", "sk-abc"),
        ("gemini", "AIzaabc"),
        ("codex", "own-endpoint-key"),
    ],
)
def test_good_and_unknown_shapes_pass(provider: Provider, key: str) -> None:
    assert check_api_key(provider, f" {key}\n") == key


@pytest.mark.parametrize(
    ("provider", "token", "says"),
    [
        ("codex", "sk-ant-oat01-abcdefgh", "api_key"),
        ("gemini", "sk-ant-oat01-abcdefgh", "api_key"),
        ("claude", "sk-ant-api03-abcdefgh", '"kind": "api_key"'),
        ("claude", "something-else", "setup-token"),
        ("claude", "", "whole"),
        ("claude", "sk-ant-oat01-abc def", "alone"),
    ],
)
def test_no_session_token(provider: Provider, token: str, says: str) -> None:
    with pytest.raises(CredentialMalformed) as raised:
        check_session_token(provider, token)
    assert says in raised.value.hint


def test_a_session_token() -> None:
    assert check_session_token("claude", " sk-ant-oat01-abc\n") == "sk-ant-oat01-abc"


@pytest.mark.parametrize(
    ("provider", "text", "says"),
    [
        ("claude", auth_json(), "belongs to `codex`"),
        ("codex", "not json", "not valid JSON"),
        ("codex", "[" * 100_000, "larger"),
        ("codex", "[" * 30_000, "not valid JSON"),
        ("codex", "[1]", "no `tokens`"),
        ("codex", "{}", "no `tokens`"),
        ("codex", '{"OPENAI_API_KEY": "sk-secret-canary"}', "holds an API key"),
        ("codex", auth_json(refresh_token=None), "lack refresh_token"),
        ("codex", auth_json(refresh_token="", id_token=5), "lack id_token, refresh_token"),
        ("codex", '"\\ud800"', "no `tokens`"),
        ("codex", '{"tokens": "\ud800"}', "not valid JSON"),
        ("codex", auth_json(id_token="x" * AUTH_JSON_MAX), "larger"),
    ],
)
def test_no_auth_json(provider: Provider, text: str, says: str) -> None:
    with pytest.raises(CredentialMalformed) as raised:
        check_auth_json(provider, text)
    assert says in raised.value.message
    assert "secret-canary" not in raised.value.message + raised.value.hint


def test_an_auth_json_is_kept_as_it_is() -> None:
    text = " " + auth_json(account_id=None) + "\n"
    assert check_auth_json("codex", text) == text


@given(text=st.text(max_size=300), provider=st.sampled_from(PROVIDERS))
def test_whatever_is_pasted_is_taken_or_explained(text: str, provider: Provider) -> None:
    for check in (check_api_key, check_session_token, check_auth_json):
        said: CredentialMalformed | None = None
        try:
            check(provider, text)
        except CredentialMalformed as error:
            said = error
        if said is not None:
            assert said.message
            assert said.hint
            if len(text.strip()) > 20:
                assert text.strip() not in said.message + said.hint
