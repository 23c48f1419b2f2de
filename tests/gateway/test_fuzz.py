"""Requests that were taken apart and put together wrongly, over real sockets, for as long as asked.

``HUTCH_TEST_FUZZ_S`` seconds (``make fuzz``: five minutes). What is sent depends on the seed alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hutch.config import Settings
from hutch.gateway.client import GatewayClient
from hutch.gateway.server import Gateway
from hutch.gateway.table import HostRule
from tests.gateway.conftest import Names, Setup, Upstream

SECONDS = float(os.environ.get("HUTCH_TEST_FUZZ_S", "3"))
SEED = int(os.environ.get("HUTCH_TEST_FUZZ_SEED", "1"))
AT_ONCE = 16
LINES = (
    b"GET /claude/v1/x HTTP/1.1",
    b"POST /codex/v1/responses HTTP/1.1",
    b"POST /gemini/v1beta/models/m:x?key=own-key HTTP/1.1",
    b"CONNECT allowed.example.org:443 HTTP/1.1",
    b"CONNECT private.example.org:443 HTTP/1.1",
    b"GET http://allowed.example.org/ HTTP/1.1",
    b"GET http://private.example.org/ HTTP/1.1",
    b"GET /claude/ws HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"PRI * HTTP/2.0",
)
HEADERS = (
    *(b"Host: h", b"Content-Length: 5", b"Content-Length: 0", b"Transfer-Encoding: chunked"),
    *(b"Connection: close", b"Connection: upgrade, x-api-key", b"Upgrade: websocket"),
    *(b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", b"Sec-WebSocket-Version: 13"),
    *(b"x-api-key: own-key", b"Authorization: Bearer own-key", b"Expect: 100-continue"),
    *(b"Transfer-Encoding : chunked", b"X: a\r\n b", b"X\x00: y", b": z", b"X: \xff\xfe", b"TE: x"),
)
BODIES = (
    b"",
    b"hello",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"ffffffffff\r\n",
    b"-1\r\n",
    b"\x00" * 9,
)
ENDS = (b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r")


def made_up(chance: random.Random) -> bytes:
    text = b""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        end = chance.choice(ENDS)
        lines = [chance.choice(LINES), *chance.choices(HEADERS, k=chance.randrange(6))]
        text += end.join(lines) + end * 2 + chance.choice(BODIES)
    spoiled = bytearray(text)
    for _ in range(chance.choice((0, 0, 1, 3))):
        place = chance.randrange(len(spoiled))
        match chance.randrange(3):
            case 0:
                spoiled[place] = chance.randrange(256)
            case 1:
                del spoiled[place : place + chance.randrange(1, 20)]
            case _:
                spoiled[place:place] = spoiled[: chance.randrange(40)]
        if not spoiled:
            break
    return bytes(spoiled)


@pytest.fixture
async def fuzzed(tmp_path: Path, upstream: Upstream, names: Names) -> AsyncIterator[Setup]:
    """Without the time limit of the other tests."""
    settings = Settings(
        data_dir=tmp_path,
        gateway_port=0,
        egress_networks=("127.0.0.0/24",),
        egress_connections=10_000,
    )
    gateway = Gateway(settings, host="127.0.0.1", resolver=names)
    await gateway.start()
    control = GatewayClient(settings.gateway_socket)
    names.answers = {
        "allowed.example.org": [["127.0.0.1"]],
        "private.example.org": [["127.0.0.1", "10.0.0.1"]],
    }
    one = Setup(gateway, control, upstream)
    rules = [HostRule(f"{n}.example.org", p) for n in ("allowed", "private") for p in (80, 443)]
    await control.put_table([one.entry("127.0.0.2", allow=rules)])
    yield one
    await control.close()
    await gateway.close()


async def send(setup: Setup, text: bytes, chance: random.Random) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", setup.gateway.port, local_addr=("127.0.0.2", 0)
    )
    cut = chance.randrange(len(text) + 1)
    with contextlib.suppress(OSError, TimeoutError):
        writer.write(text[:cut])
        await writer.drain()
        writer.write(text[cut:])
        if chance.random() < 0.7:
            writer.write_eof()
        async with asyncio.timeout(0.3):
            while await reader.read(65536):
                pass
    writer.close()


@pytest.mark.timeout(SECONDS + 90)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_made_up_requests(fuzzed: Setup) -> None:
    chance = random.Random(SEED)  # noqa: S311  it has to be the same again
    until, sent = time.monotonic() + SECONDS, 0
    while time.monotonic() < until:
        requests = [made_up(chance) for _ in range(AT_ONCE)]
        await asyncio.gather(*(send(fuzzed, text, chance) for text in requests if text))
        sent += AT_ONCE
        for seen in fuzzed.upstream.seen:
            assert "own-key" not in repr(seen), seen
            assert seen.target.startswith("/base"), seen
        fuzzed.upstream.seen.clear()
    async with (
        fuzzed.session("127.0.0.2") as http,
        http.get(f"{fuzzed.base}/claude/v1/models") as answer,
    ):
        assert answer.status == 200
    assert sent >= AT_ONCE
