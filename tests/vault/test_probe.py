"""Credentials tried against the offline model, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import httpx2
import pytest

from hutch.errors import ExitUnavailable
from hutch.secrets import Secret
from hutch.vault.models import Credential
from hutch.vault.probe import CredentialProbe
from hutch_runtime.protocol import PROVIDERS, Provider
from tests.offline_model.server import running_offline_model
from tests.service import fingerprint

KEY = "sk-the-key-to-try-7731"


@pytest.fixture(scope="module")
def model() -> Iterator[httpx2.Client]:
    with (
        running_offline_model() as url,
        httpx2.Client(base_url=url, timeout=20, trust_env=False) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def forgetful(model: httpx2.Client) -> None:
    model.delete("/_control/requests")
    model.delete("/_control/behaviour")


async def directly(_user_id: str) -> None:
    return None


def probe_of(url: str) -> CredentialProbe:
    return CredentialProbe(lambda _provider: url, directly)


def api_key(provider: Provider) -> Credential:
    return Credential(provider, "api_key", Secret(KEY))


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_good_key(model: httpx2.Client, provider: Provider) -> None:
    probed = await probe_of(str(model.base_url).rstrip("/")).probe("user", api_key(provider))
    assert probed is not None
    assert probed.result == "ok"
    [request] = model.get("/_control/requests").json()["requests"]
    path = "/v1beta/models" if provider == "gemini" else "/v1/models"
    assert (request["method"], request["path"], request["key"]) == ("GET", path, fingerprint(KEY))


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("status", "result"),
    [(401, "rejected"), (403, "rejected"), (429, "rate_limited"), (500, "error"), (404, "error")],
)
async def test_what_the_provider_says(
    model: httpx2.Client, provider: Provider, status: int, result: str
) -> None:
    model.post(
        "/_control/behaviour", json={"models": True, "status": status, "key": fingerprint(KEY)}
    )
    probed = await probe_of(str(model.base_url).rstrip("/")).probe("user", api_key(provider))
    assert probed is not None
    assert probed.result == result
    assert KEY not in probed.detail


class Says(asyncio.Protocol):
    """Answers each connection with these bytes; remembers what it was asked."""

    def __init__(self, answer: bytes, asked: list[bytes]) -> None:
        self._answer = answer
        self._asked = asked

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._asked.append(data)
        if b"\r\n\r\n" in data:
            self._transport.write(self._answer)
            self._transport.close()


@contextlib.asynccontextmanager
async def saying(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    asked: list[bytes] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Says(answer, asked), "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_a_session_token_goes_as_claude_code_sends_it() -> None:
    async with saying(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}") as (url, asked):
        token = Credential("claude", "session_token", Secret("sk-ant-oat01-abc"))
        probed = await probe_of(url).probe("user", token)
    assert probed is not None
    assert probed.result == "ok"
    lines = asked[0].decode().lower().split("\r\n")
    assert "authorization: bearer sk-ant-oat01-abc" in lines
    assert "anthropic-beta: oauth-2025-04-20" in lines
    assert not any(line.startswith("x-api-key") for line in lines)


async def test_googles_word_for_an_unknown_key() -> None:
    body = b'{"error": {"code": 400, "details": [{"reason": "API_KEY_INVALID"}]}}'
    head = f"HTTP/1.1 400 Bad Request\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    async with saying(head + body) as (url, _):
        probed = await probe_of(url).probe("user", api_key("gemini"))
        other = await probe_of(url).probe("user", api_key("codex"))
    assert probed is not None
    assert other is not None
    assert (probed.result, other.result) == ("rejected", "error")


async def test_a_redirect_does_not_take_the_key_along() -> None:
    async with saying(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as (elsewhere, stolen):
        head = f"HTTP/1.1 307 Moved\r\nlocation: {elsewhere}/\r\ncontent-length: 0\r\n\r\n"
        async with saying(head.encode()) as (url, _):
            probed = await probe_of(url).probe("user", api_key("claude"))
    assert probed is not None
    assert probed.result == "error"
    assert stolen == []


@pytest.mark.parametrize(
    "answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000]
)
async def test_a_provider_that_makes_no_sense(answer: bytes) -> None:
    async with saying(answer) as (url, _):
        probed = await probe_of(url).probe("user", api_key("claude"))
    assert probed is not None
    assert probed.result == "unreachable"


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    probed = await probe_of(f"http://127.0.0.1:{port}").probe("user", api_key("claude"))
    assert probed is not None
    assert probed.result == "unreachable"


async def test_silence_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hutch.vault.probe._WITHIN_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        probed = await probe_of(url).probe("user", api_key("claude"))
    assert probed is not None
    assert probed.result == "unreachable"


async def test_it_leaves_by_the_users_exit_or_not_at_all(model: httpx2.Client) -> None:
    url = str(model.base_url).rstrip("/")
    asked_for: list[str] = []

    async def by_address(user_id: str) -> aiohttp.BaseConnector:
        asked_for.append(user_id)
        return aiohttp.TCPConnector(local_addr=("127.0.0.9", 0))

    async def no_exit(_user_id: str) -> aiohttp.BaseConnector:
        raise ExitUnavailable("Your exit does not answer.")

    probed = await CredentialProbe(lambda _p: url, by_address).probe("user_ada", api_key("claude"))
    assert probed is not None
    assert probed.result == "ok"
    assert asked_for == ["user_ada"]
    [request] = model.get("/_control/requests").json()["requests"]
    assert request["peer"] == "127.0.0.9"
    probed = await CredentialProbe(lambda _p: url, no_exit).probe("user_ada", api_key("claude"))
    assert probed is not None
    assert (probed.result, probed.detail) == ("unreachable", "Your exit does not answer.")
    assert len(model.get("/_control/requests").json()["requests"]) == 1


async def test_a_login_is_its_clis_alone(model: httpx2.Client) -> None:
    login = Credential("codex", "login", None)
    assert await probe_of(str(model.base_url)).probe("user", login) is None
    assert model.get("/_control/requests").json()["requests"] == []
