"""Real exits: Debian's Squid with a user name and password, each leaving from its own address."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from aiohttp import web

from hutch.cli.squid import Squid
from hutch.gateway.table import ExitProxy
from hutch.secrets import Secret
from tests.gateway.conftest import Setup
from tests.gateway.test_exits import KINDS, Kind, by_connect, by_plain, by_route, entry, rule

SANDBOX = "127.0.0.2"
PASSWORD = "the-exits-password"


@pytest.fixture(scope="module")
def squids() -> Iterator[tuple[Squid, Squid]]:
    with (
        Squid("127.0.0.21", login=("a-user", PASSWORD)) as one,
        Squid("127.0.0.22", login=("b-user", PASSWORD)) as two,
    ):
        yield one, two


def exit_of(squid: Squid, *, password: str = PASSWORD) -> ExitProxy:
    return ExitProxy("ext_1", "127.0.0.1", squid.port, squid.login[0], Secret(password))


@pytest.mark.parametrize("kind", [by_route, by_plain, by_connect])
async def test_each_user_is_seen_from_their_own_address(
    setup: Setup, squids: tuple[Squid, Squid], kind: Kind
) -> None:
    for squid, source in zip(squids, ("127.0.0.21", "127.0.0.22"), strict=True):
        await setup.control.put(entry(setup, exit_of(squid)))
        status, said, _ = await kind(setup)
        assert (status, "from upstream" in said) == (200, True)
        assert setup.upstream.seen.pop().source == source


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wrong_password(setup: Setup, squids: tuple[Squid, Squid], kind: Kind) -> None:
    await setup.control.put(entry(setup, exit_of(squids[0], password="wrong-password")))
    status, said, _ = await kind(setup)
    assert status == 502
    assert "exit_unavailable: the exit ext_1 does not take its user name and password" in said
    assert "wrong-password" not in said
    assert setup.upstream.seen == []


async def test_a_destination_that_squid_cannot_reach(
    setup: Setup, squids: tuple[Squid, Squid]
) -> None:
    one = setup.entry(SANDBOX, base_url="http://127.0.0.1:9", leaves=exit_of(squids[0]))
    await setup.control.put(one)
    status, said, _ = await by_route(setup)
    assert status == 502
    assert "exit_unavailable: the exit ext_1 does not connect to 127.0.0.1:9 (503)" in said


@pytest.mark.parametrize("kind", ["route", "connect"])
async def test_killed_in_mid_stream_and_started_again(setup: Setup, kind: str) -> None:
    squid = Squid("127.0.0.23", login=("a-user", PASSWORD))
    sources = set()

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        sources.add(request.transport.get_extra_info("peername")[0])
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 1000)
            await asyncio.sleep(0.01)

    try:
        began = time.time()
        setup.upstream.handler = endless
        await setup.control.put(entry(setup, exit_of(squid)))
        whole = await _cut(setup, squid, kind)
        assert not whole
        if kind == "route":  # a tunnel's end says nothing about why
            assert await _failure(setup, began) == "exit_unavailable"
            assert (await setup.control.exits())["ext_1"].failures == 1
        # While it is dead nothing goes out, and it serves again as soon as it is back.
        status, said, _ = await by_route(setup)
        assert (status, "exit_unavailable" in said) == (502, True)
        setup.upstream.handler = None
        squid.start()
        status, _, _ = await by_route(setup)
        assert status == 200
        assert sources == {"127.0.0.23"}
        assert {seen.source for seen in setup.upstream.seen} == {"127.0.0.23"}
    finally:
        squid.__exit__()


async def _cut(setup: Setup, squid: Squid, kind: str) -> bool:
    """Kill the exit in the middle; whether what came looked like a whole answer."""
    if kind == "connect":
        place = rule(setup.upstream)
        _, reader, writer = await setup.tunnel(SANDBOX, f"{place.host}:{place.port}")
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readexactly(2000)
        squid.kill()
        try:
            async with asyncio.timeout(5):
                await reader.read(-1)
        except ConnectionError:
            return False
        finally:
            writer.close()
        return not reader.at_eof()
    async with setup.session(SANDBOX) as http, http.get(f"{setup.base}/claude/x") as response:
        await response.content.readexactly(2000)
        squid.kill()
        try:
            async with asyncio.timeout(5):
                await response.read()
        except Exception:  # noqa: BLE001 - whichever way the client finds out
            return False
    return True


async def _failure(setup: Setup, since: float) -> str:
    for _ in range(100):
        failure = await setup.control.failure("sbx_a", "inc_of_sbx_a", since)
        if failure is not None:
            return failure.code
        await asyncio.sleep(0.02)
    return ""
