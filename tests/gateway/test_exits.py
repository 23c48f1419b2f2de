"""Whoever has an exit leaves through it, or not at all: never from the server's own address."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from hutch.gateway import dial
from hutch.gateway.table import Entry, ExitProxy, HostRule
from hutch.secrets import Secret
from tests.gateway import exits
from tests.gateway.conftest import Setup, Upstream
from tests.gateway.exits import BROKEN, PASSWORD, Streams, an_exit

SANDBOX = "127.0.0.2"
UPGRADE = (
    b"GET /codex/v1/responses HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
LOGIN = base64.b64encode(f"a-user:{PASSWORD}".encode())


def place(upstream: Upstream) -> str:
    return upstream.url.removeprefix("http://")


def rule(upstream: Upstream) -> HostRule:
    host, _, port = place(upstream).partition(":")
    return HostRule(host, int(port))


def entry(setup: Setup, leaves: ExitProxy) -> Entry:
    return setup.entry(SANDBOX, leaves=leaves, allow=[rule(setup.upstream)])


async def by_route(setup: Setup) -> tuple[int, str, Any]:
    async with (
        setup.session(SANDBOX) as http,
        http.post(f"{setup.base}/claude/v1/messages", data=b"{}") as response,
    ):
        return response.status, await response.text(), response.headers


async def by_plain(setup: Setup) -> tuple[int, str, Any]:
    url = f"{setup.upstream.url}/plain"
    async with setup.session(SANDBOX) as http, http.get(url, proxy=setup.base) as response:
        return response.status, await response.text(), response.headers


async def by_connect(setup: Setup) -> tuple[int, str, Any]:
    head, reader, writer = await setup.tunnel(SANDBOX, place(setup.upstream))
    status = int(head.split()[1])
    if status == 200:
        writer.write(b"GET /tunnel HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    said = (head + await reader.read()).decode()
    writer.close()
    return status, said, {"x-should-retry": "false"} if "x-should-retry: false" in said else {}


async def by_websocket(setup: Setup) -> tuple[int, str, Any]:
    said = (await setup.raw(SANDBOX, UPGRADE)).decode()
    status = int(said.split()[1])
    return status, said, {"x-should-retry": "false"} if "x-should-retry: false" in said else {}


KINDS = (by_route, by_plain, by_connect, by_websocket)
Kind = Callable[[Setup], Awaitable[tuple[int, str, Any]]]


@pytest.mark.parametrize("kind", KINDS[:3])
async def test_each_kind_is_a_connect_to_the_exit(setup: Setup, kind: Kind) -> None:
    async with an_exit(exits.that_works) as one:
        await setup.control.put(entry(setup, one.proxy))
        status, said, _ = await kind(setup)
    assert status == 200
    assert "from upstream" in said
    (head,) = one.heads
    assert head.startswith(f"CONNECT {place(setup.upstream)} HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic " + LOGIN in head
    assert PASSWORD not in repr(setup.upstream.seen)
    assert not setup.upstream.seen.pop().values("proxy-authorization")
    traffic = (await setup.control.exits())["ext_1"]
    assert (traffic.requests, traffic.failures) == (1, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behaves", BROKEN, ids=lambda behaves: behaves.__name__)
async def test_a_broken_exit_is_never_passed_by(
    setup: Setup,
    kind: Kind,
    behaves: Callable[[Streams, bytes], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dial.connect, "__kwdefaults__", {"timeout": 0.5})
    began = time.time()
    with capture_logs() as logs:
        async with an_exit(behaves) as one:
            await setup.control.put(entry(setup, one.proxy))
            status, said, headers = await kind(setup)
            assert one.heads
    assert status == 502
    assert "exit_unavailable: the exit ext_1" in said
    assert headers["x-should-retry"] == "false"
    assert setup.upstream.seen == []
    failure = await setup.control.failure("sbx_a", "inc_of_sbx_a", began)
    assert failure is not None
    assert failure.code == "exit_unavailable"
    assert failure.message.startswith("the exit ext_1")
    assert await setup.control.failure("sbx_a", "inc_of_sbx_a", time.time() + 1) is None
    assert await setup.control.failure("sbx_a", "another", began) is None
    traffic = (await setup.control.exits())["ext_1"]
    assert (traffic.requests, traffic.failures) == (1, 1)
    for told in (said, repr(logs), failure.message, await setup.control.metrics()):
        assert PASSWORD not in told
        assert LOGIN.decode() not in told


@pytest.mark.parametrize("kind", KINDS)
async def test_an_exit_that_is_not_there(setup: Setup, kind: Kind) -> None:
    await setup.control.put(entry(setup, ExitProxy("ext_1", "127.0.0.1", 9, "u", Secret("p"))))
    status, said, _ = await kind(setup)
    assert status == 502
    assert "exit_unavailable: the exit ext_1 cannot be reached (connection refused)" in said
    assert setup.upstream.seen == []


@pytest.mark.parametrize("kind", KINDS)
async def test_without_an_exit_nothing_leaves(setup: Setup, kind: Kind) -> None:
    closed = Entry(
        **{
            **{f: getattr(entry(setup, None), f) for f in Entry.__slots__},  # type: ignore[arg-type]
            "egress": "closed",
            "closed_because": "all exits are leased.",
        }
    )
    await setup.control.put(closed)
    status, said, _ = await kind(setup)
    assert status == 502
    assert "exit_unavailable: all exits are leased." in said
    assert setup.upstream.seen == []


@pytest.mark.parametrize("kind", [by_route, by_plain])
async def test_an_exits_own_answer_is_not_taken_for_the_destinations(
    setup: Setup, kind: Kind
) -> None:
    async with an_exit(exits.that_answers_for_the_destination) as one:
        await setup.control.put(entry(setup, one.proxy))
        status, said, _ = await kind(setup)
    assert status == 502
    assert "exit_unavailable" in said
    assert "sent bytes that nobody had asked for" in said
    assert "faked" not in said


async def test_two_users_never_share_a_connection(setup: Setup) -> None:
    async with an_exit(exits.that_works, "ext_1") as one, an_exit(exits.that_works, "ext_2") as two:
        await setup.control.put(entry(setup, one.proxy))
        await setup.control.put(
            setup.entry("127.0.0.3", "user_b", sandbox="sbx_b", leaves=two.proxy)
        )
        for _ in range(3):
            for address in ("127.0.0.2", "127.0.0.3"):
                async with (
                    setup.session(address) as http,
                    http.get(f"{setup.base}/claude/x") as response,
                ):
                    assert response.status == 200
        assert (len(one.heads), len(two.heads)) == (1, 1)  # each kept its own


async def test_after_a_change_of_exit_the_former_is_not_used(setup: Setup) -> None:
    async with an_exit(exits.that_works, "ext_1") as one, an_exit(exits.that_works, "ext_2") as two:
        for exit_proxy in (one.proxy, two.proxy):
            await setup.control.put(entry(setup, exit_proxy))
            async with setup.session(SANDBOX) as http:
                for _ in range(2):
                    async with http.get(f"{setup.base}/claude/x") as response:
                        assert response.status == 200
        assert (len(one.heads), len(two.heads)) == (1, 1)


async def test_an_exits_next_user_gets_no_connection_of_the_last(setup: Setup) -> None:
    """Though an answer to the last one was still under way when the exit changed hands."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slowly(_: web.BaseRequest) -> web.StreamResponse:
        setup.upstream.handler = None
        asked.set()
        await answer.wait()
        return web.Response(text="late")

    setup.upstream.handler = slowly
    async with an_exit(exits.that_works) as one:
        await setup.control.put(entry(setup, one.proxy))
        asking = asyncio.create_task(by_route(setup))
        await asked.wait()
        await setup.control.remove("sbx_a", "inc_of_sbx_a")
        await setup.control.put(
            setup.entry("127.0.0.3", "user_b", sandbox="sbx_b", leaves=one.proxy)
        )
        answer.set()
        assert (await asking)[1] == "late"
        async with (
            setup.session("127.0.0.3") as http,
            http.get(f"{setup.base}/claude/x") as response,
        ):
            assert response.status == 200
        assert len(one.heads) == 2


@pytest.mark.parametrize("kind", [by_route, by_plain])
@pytest.mark.parametrize("then", ["removed", "closed", "the next user's"])
async def test_an_exit_that_changes_while_it_is_dialled_gets_no_request(
    setup: Setup, kind: Kind, then: str
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(streams: Streams, head: bytes) -> None:
        asked.set()
        await go_on.wait()
        await exits.that_works(streams, head)

    async with an_exit(slowly) as one:
        await setup.control.put(entry(setup, one.proxy))
        asking = asyncio.ensure_future(kind(setup))
        await asked.wait()
        if then == "closed":
            await setup.control.put(replace(entry(setup, one.proxy), egress="closed", exit=None))
        else:
            await setup.control.remove("sbx_a", "inc_of_sbx_a")
        if then == "the next user's":
            await setup.control.put(
                setup.entry("127.0.0.3", "user_b", sandbox="sbx_b", leaves=one.proxy)
            )
        go_on.set()
        status, said, _ = await asking
    assert status == 503
    assert "try again" in said
    assert setup.upstream.seen == []


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_exit_has_one_user_whatever_the_table_says(
    setup: Setup, kind: Kind, *, whole: bool
) -> None:
    """A lease ends and begins in the database; the two pushes come in any order."""
    async with an_exit(exits.that_works) as one:
        first = entry(setup, one.proxy)
        other = setup.entry("127.0.0.3", "user_b", sandbox="sbx_b", leaves=one.proxy)
        if whole:
            await setup.control.put_table([first, other])
        else:
            await setup.control.put(first)
            await setup.control.put(other)
        status, said, _ = await kind(setup)
        assert status == 502
        assert "given to somebody else" in said
        assert one.heads == []
        await setup.control.put(first)
        if kind is not by_websocket:  # the upstream here knows none
            assert (await kind(setup))[0] == 200
            assert len(one.heads) == 1


async def test_a_slow_exit_is_waited_for(setup: Setup) -> None:
    async def slowly(streams: Streams, head: bytes) -> None:
        await asyncio.sleep(1)
        await exits.that_works(streams, head)

    async with an_exit(slowly) as one:
        await setup.control.put(entry(setup, one.proxy))
        assert (await by_connect(setup))[0] == 200
