"""WebSockets on a provider's route: the credential put in, frames as they are."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from structlog.testing import capture_logs

from tests.gateway import exits
from tests.gateway.conftest import Setup
from tests.gateway.exits import an_exit

SANDBOX = "127.0.0.2"


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    socket = web.WebSocketResponse(protocols=("realtime",), max_msg_size=0)
    await socket.prepare(request)
    await socket.send_str(
        f"{request.raw_path} {request.headers.get('authorization')} {request.headers.get('cookie')}"
    )
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


@pytest.mark.parametrize("through", ["direct", "exit"])
async def test_frames_pass_both_ways(setup: Setup, through: str) -> None:
    setup.upstream.handler = echo
    async with an_exit(exits.that_works) as one:
        leaves = one.proxy if through == "exit" else None
        await setup.control.put(setup.entry(SANDBOX, leaves=leaves))
        with capture_logs() as logs:
            async with (
                setup.session(SANDBOX) as http,
                http.ws_connect(
                    f"{setup.base}/codex/v1/responses?a=b",
                    headers={"Authorization": "Bearer own", "Cookie": "own=1"},
                    protocols=("realtime",),
                    max_msg_size=0,
                    compress=15,
                ) as socket,
            ):
                assert socket.protocol == "realtime"
                first = await socket.receive_str()
                assert first == "/base/v1/responses?a=b real-codex-user_a None"
                await socket.send_str("héllo")
                assert await socket.receive_str() == "héllo"
                large = bytes(range(256)) * 16384
                await socket.send_bytes(large)
                assert await socket.receive_bytes() == large
                assert await socket.close()
                assert socket.close_code == 1000
            await asyncio.sleep(0.1)
        assert len(one.heads) == (1 if leaves else 0)
    (line,) = logs
    assert (line["kind"], line["status"], line["provider"]) == ("websocket", 101, "codex")
    assert line["exit"] == ("ext_1" if leaves else None)
    assert line["bytes_up"] > 1000
    assert line["path"] == "/codex/v1/responses"


async def test_an_answer_that_is_no_upgrade_passes_too(setup: Setup) -> None:
    async def no(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=426, text="use POST", headers={"X-Why": "because"})

    setup.upstream.handler = no
    async with setup.session(SANDBOX) as http:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{setup.base}/codex/v1/responses")
    assert refused.value.status == 426
    assert refused.value.headers is not None
    assert refused.value.headers["X-Why"] == "because"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/codex/../admin", 400), ("/codex/%2e%2e/admin", 400), ("/", 403), ("/elsewhere", 403)],
)
async def test_paths_are_held_to_the_same_rules(setup: Setup, path: str, status: int) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    answer = await setup.raw(SANDBOX, head.encode())
    assert answer.split()[1] == str(status).encode(), answer
    assert setup.upstream.seen == []


async def test_no_other_upgrade_passes(setup: Setup) -> None:
    for upgrade in ("h2c", "websocket, h2c", "TLS/1.0"):
        head = (
            f"GET /codex/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n"
        )
        answer = await setup.raw(SANDBOX, head.encode())
        assert answer.startswith(b"HTTP/1.1 426"), answer
    assert setup.upstream.seen == []


async def test_it_is_cut_with_the_exit_and_the_failure_noted(setup: Setup) -> None:
    setup.upstream.handler = echo

    async def that_dies(streams: exits.Streams, head: bytes) -> None:
        working = asyncio.ensure_future(exits.that_works(streams, head))
        await asyncio.sleep(0.3)
        streams[1].transport.abort()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    async with an_exit(that_dies) as one:
        await setup.control.put(setup.entry(SANDBOX, leaves=one.proxy))
        async with (
            setup.session(SANDBOX) as http,
            http.ws_connect(f"{setup.base}/codex/v1/responses") as socket,
        ):
            await socket.receive_str()
            message = await socket.receive(timeout=5)
            assert message.type in {WSMsgType.CLOSED, WSMsgType.CLOSE, WSMsgType.ERROR}
            assert socket.close_code != 1000


async def test_it_ends_with_its_sandbox(setup: Setup) -> None:
    setup.upstream.handler = echo
    async with (
        setup.session(SANDBOX) as http,
        http.ws_connect(f"{setup.base}/codex/v1/responses") as socket,
    ):
        await socket.receive_str()
        await setup.control.remove("sbx_a", "inc_of_sbx_a")
        message = await socket.receive(timeout=5)
        assert message.type in {WSMsgType.CLOSED, WSMsgType.CLOSE, WSMsgType.ERROR}
