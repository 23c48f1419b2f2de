"""Who would tie the gateway up: slow heads, large heads, many connections, two requests in one."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from aiohttp import web

from hutch.config import Settings
from hutch.gateway import visitor
from hutch.gateway.table import HostRule
from tests.gateway.conftest import Setup

SANDBOX = "127.0.0.2"
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket"


@pytest.mark.parametrize("first", [b"", b"GET /claude/x HTTP/1.1\r\n", b"CONNECT a.example:443 HT"])
async def test_a_head_that_does_not_come(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(visitor, "HEAD_S", 0.5)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", setup.gateway.port, local_addr=(SANDBOX, 0)
    )
    began = time.perf_counter()
    writer.write(first)

    async def trickle() -> None:
        with contextlib.suppress(OSError, RuntimeError):
            for _ in range(100):
                await asyncio.sleep(0.1)  # never silent for long: the time is for the whole head
                writer.write(b"X")

    trickling = asyncio.ensure_future(trickle())
    answer = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            answer = await reader.read()
    assert 0.4 < time.perf_counter() - began < 3
    assert answer.startswith(b"HTTP/1.1 408")
    trickling.cancel()
    await asyncio.gather(trickling, return_exceptions=True)
    writer.close()


async def test_slow_heads_do_not_keep_others_waiting(setup: Setup) -> None:
    slow = [
        await asyncio.open_connection("127.0.0.1", setup.gateway.port, local_addr=(SANDBOX, 0))
        for _ in range(50)
    ]
    async with setup.session("127.0.0.3") as http, http.get(f"{setup.base}/claude/x") as response:
        assert response.status == 200
    for _, writer in slow:
        writer.close()


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_a_head_that_is_too_large(setup: Setup, method: str) -> None:
    head = f"{method} /claude/x HTTP/1.1\r\nHost: h\r\n".encode()
    for bomb in (head + b"X-A: " + b"b" * 64_000, head + b"X-A: b\r\n" * 10_000, b"A" * 100_000):
        with contextlib.suppress(ConnectionError):
            answer = await setup.raw(SANDBOX, bomb + b"\r\n\r\n")
            assert answer.split(b" ")[1] in {b"431", b"400"}, answer
    assert setup.upstream.seen == []


@pytest.fixture
def few(settings: Settings) -> Settings:
    settings.egress_connections = 8
    return settings


async def test_a_flood_of_connections_is_one_sandboxs_own_trouble(
    few: Settings, setup: Setup
) -> None:
    assert few.egress_connections == 8
    opened = []
    for _ in range(40):
        opened.append(  # noqa: PERF401 - one after the other
            await asyncio.open_connection("127.0.0.1", setup.gateway.port, local_addr=(SANDBOX, 0))
        )
    await asyncio.sleep(0.1)
    closed = 0
    for reader, _ in opened:
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(0.05):
                assert await reader.read() == b""
            closed += 1
    assert closed >= 30
    async with setup.session("127.0.0.3") as http, http.get(f"{setup.base}/claude/x") as response:
        assert response.status == 200
    for _, writer in opened:
        writer.close()
    await asyncio.sleep(0.1)
    # Each has its place back.
    for _ in range(20):
        async with setup.session(SANDBOX) as http, http.get(f"{setup.base}/claude/x") as response:
            assert response.status == 200
    assert "hutch_gateway_turned_away_total" in await setup.control.metrics()


@pytest.mark.parametrize("headers", [
    "Content-Length: 5", "Transfer-Encoding: chunked", "Content-Length: 0",
    "Host: other", "X : y", "X-A: b\r\n folded: c", "X-A: b\nX-B: c", "X-A: b\rX-B: c",
    "X-A: b\x00c",
])  # fmt: skip
@pytest.mark.parametrize("kind", ["CONNECT", "upgrade"])
async def test_what_could_be_read_in_two_ways(setup: Setup, headers: str, kind: str) -> None:
    port = setup.upstream.url.rpartition(":")[2]
    await setup.control.put(setup.entry(SANDBOX, allow=[HostRule("127.0.0.1", int(port))]))
    line = (
        f"CONNECT 127.0.0.1:{port}" if kind == "CONNECT" else f"GET /codex/x HTTP/1.1\r\n{UPGRADE}"
    )
    start = f"{line} HTTP/1.1" if kind == "CONNECT" else line
    smuggled = "GET /claude/smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
    answer = await setup.raw(
        SANDBOX, f"{start}\r\nHost: h\r\n{headers}\r\n\r\n{smuggled}".encode("latin-1")
    )
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert setup.upstream.seen == []


async def test_what_follows_a_refused_request_is_not_another(setup: Setup) -> None:
    """A refused CONNECT or upgrade ends its connection: the rest was meant for somebody else."""
    smuggled = "GET /claude/smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
    for head in (
        "CONNECT denied.example:443 HTTP/1.1\r\nHost: h\r\n\r\n",
        f"GET /codex/x HTTP/1.1\r\nHost: h\r\n{UPGRADE}\r\n\r\n",  # answered with 200, no upgrade
    ):
        await setup.raw(SANDBOX, (head + smuggled).encode())
    assert all("smuggled" not in seen.target for seen in setup.upstream.seen)


async def test_a_tunnel_asked_for_on_a_used_connection(setup: Setup) -> None:
    answer = await setup.raw(
        SANDBOX,
        b"GET /claude/x HTTP/1.1\r\nHost: h\r\n\r\nCONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: h\r\n\r\n",
    )
    assert answer.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 426" in answer or b"HTTP/1.1 400" in answer


async def test_a_sandbox_that_shares_its_address_says_who_it_is(setup: Setup) -> None:
    port = int(setup.upstream.url.rpartition(":")[2])
    await setup.control.put(setup.entry("127.0.0.1", allow=[HostRule("127.0.0.1", port)]))
    for login, status in (("c2FuZGJveDpwbGFjZWhvbGRlci1zYnhfYQ==", b"200"), ("eDp5", b"403")):
        head = (
            f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: h\r\n"
            f"Proxy-Authorization: Basic {login}\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", setup.gateway.port)
        writer.write(head.encode())
        assert (await reader.readline()).split()[1] == status
        writer.close()


@pytest.mark.parametrize("head", [b"", b"".join(b"X-%d: %08000d\r\n" % (n, n) for n in range(60))])
async def test_requests_sent_ahead_are_not_kept_without_end(setup: Setup, head: bytes) -> None:
    asked = asyncio.Event()

    async def hangs(_: web.BaseRequest) -> web.StreamResponse:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    setup.upstream.handler = hangs
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", setup.gateway.port, local_addr=(SANDBOX, 0)
    )
    writer.write(b"GET /claude/x HTTP/1.1\r\nHost: h\r\n\r\n")
    await asked.wait()
    with contextlib.suppress(ConnectionError):
        for _ in range(9):
            if writer.is_closing():
                break
            writer.write(b"GET /claude/y HTTP/1.1\r\nHost: h\r\n" + head + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
    writer.close()


async def test_a_connection_serves_as_many_requests_as_come_in_turn(setup: Setup) -> None:
    async def thanks(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=str(len(await request.read())))

    setup.upstream.handler = thanks
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", setup.gateway.port, local_addr=(SANDBOX, 0)
    )
    body = b"x" * 60_000  # as much as a CLI sends, and comes in one read
    for _ in range(12):
        head = f"POST /claude/x HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"60000")
        assert answer.startswith(b"HTTP/1.1 200"), answer
    writer.close()
