"""Bytes both ways untouched, as they come, and both ends' going away noticed."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import os
import time

import aiohttp
import pytest
from aiohttp import web

from tests.gateway.conftest import Setup

MB8 = 8 << 20


async def test_an_answer_is_not_held_back(setup: Setup) -> None:
    go_on = asyncio.Event()

    async def trickle(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await go_on.wait()
        await response.write(b"data: 2\n\n")
        return response

    setup.upstream.handler = trickle
    async with setup.session("127.0.0.2") as http, http.get(f"{setup.base}/claude/x") as response:
        async with asyncio.timeout(2):
            assert await response.content.readany() == b"data: 1\n\n"
        go_on.set()
        assert await response.content.readany() == b"data: 2\n\n"
        assert response.headers["Content-Type"] == "text/event-stream"


async def test_a_request_is_not_held_back(setup: Setup) -> None:
    came = asyncio.Event()

    async def take(request: web.BaseRequest) -> web.StreamResponse:
        assert await request.content.readany() == b"first"
        came.set()
        assert await request.read() == b"second"
        return web.Response(text="both")

    async def body() -> object:
        yield b"first"
        async with asyncio.timeout(2):
            await came.wait()
        yield b"second"

    setup.upstream.handler = take
    async with (
        setup.session("127.0.0.2") as http,
        http.post(f"{setup.base}/codex/v1/responses", data=body()) as response,
    ):
        assert await response.text() == "both"


@pytest.mark.parametrize("chunked", [False, True])
async def test_8_mb_each_way_byte_for_byte(setup: Setup, *, chunked: bool) -> None:
    up, down = os.urandom(MB8), os.urandom(MB8)
    digest = ""

    async def swap(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal digest
        digest = hashlib.sha256(b"".join([c async for c in request.content.iter_any()])).hexdigest()
        assert ("Content-Length" in request.headers) is not chunked
        if not chunked:
            return web.Response(body=down)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(down)
        return response

    async def pieces() -> object:
        for start in range(0, MB8, 65536):
            yield up[start : start + 65536]

    setup.upstream.handler = swap
    async with (
        setup.session("127.0.0.2") as http,
        http.post(
            f"{setup.base}/gemini/v1beta/x", data=pieces() if chunked else io.BytesIO(up)
        ) as response,
    ):
        assert await response.read() == down
        assert ("Content-Length" in response.headers) is not chunked
    assert digest == hashlib.sha256(up).hexdigest()


async def test_compressed_bodies_stay_compressed(setup: Setup) -> None:
    packed = gzip.compress(b"answer" * 1000)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert gzip.decompress(await request.read()) == b"question" * 1000
        assert request.headers["Content-Encoding"] == "gzip"
        assert request.headers["Accept-Encoding"] == "gzip, br"
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    setup.upstream.handler = answer
    async with (
        setup.session("127.0.0.2") as http,
        http.post(
            f"{setup.base}/claude/x",
            data=gzip.compress(b"question" * 1000),
            headers={"Content-Encoding": "gzip", "Accept-Encoding": "gzip, br"},
        ) as response,
    ):
        assert response.headers["Content-Encoding"] == "gzip"
        assert await response.read() == packed


async def test_when_the_sandbox_goes_the_upstream_request_is_closed(setup: Setup) -> None:
    ended = asyncio.Event()

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begin")
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()
        return response

    setup.upstream.handler = endless
    async with setup.session("127.0.0.2") as http:
        response = await http.get(f"{setup.base}/claude/x")
        assert await response.content.readany() == b"begin"
        response.close()
        async with asyncio.timeout(3):
            await ended.wait()


async def test_when_the_sandbox_goes_before_the_answer_too(setup: Setup) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def think(_: web.BaseRequest) -> web.StreamResponse:
        began.set()
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()
        return web.Response()

    setup.upstream.handler = think
    async with setup.session("127.0.0.2") as http:
        asking = asyncio.ensure_future(http.post(f"{setup.base}/claude/x", data=b"{}"))
        await began.wait()
        asking.cancel()
        async with asyncio.timeout(3):
            await ended.wait()


@pytest.mark.parametrize("chunked", [False, True])
async def test_half_an_answer_does_not_look_like_a_whole_one(
    setup: Setup, *, chunked: bool
) -> None:
    async def break_off(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        if not chunked:
            response.content_length = 1000
        await response.prepare(request)
        await response.write(b"begin")
        assert request.transport is not None
        request.transport.abort()
        return response

    setup.upstream.handler = break_off
    async with setup.session("127.0.0.2") as http:
        with pytest.raises(aiohttp.ClientError):
            async with http.get(f"{setup.base}/claude/x") as response:
                await response.read()


async def test_statuses_and_redirects_come_through(setup: Setup) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        status = int(request.raw_path.rpartition("/")[2])
        return web.Response(
            status=status,
            text=None if status == 204 else "body",
            headers={"Location": "http://127.0.0.1:9/elsewhere", "Set-Cookie": "a=b", "X-Id": "7"},
        )

    setup.upstream.handler = answer
    async with setup.session("127.0.0.2") as http:
        for status in (200, 204, 302, 307, 400, 401, 429, 500, 529):
            async with http.get(f"{setup.base}/claude/{status}", allow_redirects=False) as response:
                assert response.status == status
                assert await response.text() == ("" if status == 204 else "body")
                assert response.headers["X-Id"] == "7"
                assert "Set-Cookie" not in response.headers


async def test_head_has_no_body(setup: Setup) -> None:
    async with setup.session("127.0.0.2") as http:
        for _ in range(2):  # on one connection
            async with http.head(f"{setup.base}/claude") as response:
                assert response.status == 200
                assert response.headers["Content-Length"] == "13"
            async with http.get(f"{setup.base}/claude/") as response:
                assert await response.text() == "from upstream"
    assert [s.target for s in setup.upstream.seen] == ["/base/"] * 4


async def test_expect_100_continue(setup: Setup) -> None:
    async with (
        setup.session("127.0.0.2") as http,
        http.post(f"{setup.base}/claude/x", data=b"held", expect100=True) as response,
    ):
        assert response.status == 200
    seen = setup.upstream.seen.pop()
    assert seen.body == b"held"
    assert seen.values("expect") == []


async def test_an_upstream_that_is_not_there(setup: Setup) -> None:
    await setup.control.put(setup.entry("127.0.0.2", base_url="http://127.0.0.1:9"))
    async with setup.session("127.0.0.2") as http:
        async with http.post(f"{setup.base}/claude/x", data=b"{}") as response:
            assert response.status == 502
            assert (await response.json())["error"]["type"] == "api_error"
        async with http.post(f"{setup.base}/gemini/x", data=b"{}") as response:
            assert response.status == 502
            assert (await response.json())["error"]["status"] == "UNAVAILABLE"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_request_of_more_than_32_mb_is_refused(setup: Setup, *, chunked: bool) -> None:
    size = (32 << 20) + 1

    async def pieces() -> object:
        for _ in range(33):
            yield bytes(1 << 20)

    async def swallow(request: web.BaseRequest) -> web.StreamResponse:
        async for _ in request.content.iter_any():
            pass
        return web.Response()

    setup.upstream.handler = swallow
    async with setup.session("127.0.0.2") as http:
        try:
            async with http.post(
                f"{setup.base}/claude/x", data=pieces() if chunked else io.BytesIO(bytes(size))
            ) as response:
                assert response.status == 413
                assert (await response.json())["error"]["type"] == "request_too_large"
        except aiohttp.ClientConnectionError:
            pass  # closed on us while we were still sending: refused as well


async def test_connections_are_kept(setup: Setup) -> None:
    peers = set()

    async def note(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(text="x")

    setup.upstream.handler = note
    async with setup.session("127.0.0.2") as http:
        began = time.perf_counter()
        for _ in range(50):
            async with http.post(f"{setup.base}/claude/x", data=b"{}") as response:
                await response.read()
        assert time.perf_counter() - began < 5
    assert len(peers) == 1


async def test_a_rate_cap_holds_for_routes_too(setup: Setup) -> None:
    setup.gateway._gate.seats._mb_per_s = 2.0

    async def large(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=bytes(2 << 20))

    setup.upstream.handler = large
    async with setup.session("127.0.0.2") as http:
        began = time.perf_counter()
        async with http.get(f"{setup.base}/claude/x") as response:
            assert len(await response.read()) == 2 << 20
        assert 0.5 < time.perf_counter() - began < 2.5


@pytest.mark.parametrize("kept", [True, False], ids=["kept connection", "new connections"])
async def test_requests_beyond_a_rate_wait_and_nobody_elses_do(
    setup: Setup,
    kept: bool,  # noqa: FBT001  as pytest gives it
) -> None:
    await setup.control.put(setup.entry("127.0.0.3", "user_b", sandbox="sbx_b"))
    setup.gateway._gate.seats._requests_per_s = 10.0  # and fifty at once
    done = 0

    async def flood() -> None:
        nonlocal done
        async with setup.session("127.0.0.2") as http:
            headers = {} if kept else {"Connection": "close"}
            for _ in range(70 if kept else 35):
                async with http.get(f"{setup.base}/claude/x", headers=headers) as response:
                    await response.read()
                done += 1

    began = time.perf_counter()
    flooding = asyncio.create_task(flood())
    while done < 10:
        await asyncio.sleep(0.01)
    async with setup.session("127.0.0.3") as http, http.get(f"{setup.base}/claude/x") as response:
        assert response.status == 200
    assert not flooding.done()
    await flooding
    assert time.perf_counter() - began > 1.5


async def test_what_counts_arrivals_goes_with_the_sandbox(setup: Setup) -> None:
    seats = setup.gateway._gate.seats
    seats._requests_per_s = 10.0
    async with setup.session("127.0.0.2") as http, http.get(f"{setup.base}/claude/x") as response:
        assert response.status == 200
    assert set(seats._arrivals) == {"127.0.0.2"}
    await setup.control.remove("sbx_a", "inc_of_sbx_a")
    assert not seats._arrivals
