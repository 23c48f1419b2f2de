"""Probes, through real Squid and through exits that misbehave. Nothing goes past an exit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from hutch.cli.squid import Squid
from hutch.exits.probe import Probe, probe
from hutch.gateway.table import ExitProxy
from hutch.secrets import Secret
from tests.gateway import exits as kinds

LOGIN = ("exit", "right")


class Page:
    """Answers the asker's address, or what it is told to."""

    def __init__(self) -> None:
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        self.peers: list[str] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.peers.append(str(request.remote))
        if self.answer is not None:
            return await self.answer(request)
        return web.json_response({"ip": request.remote})


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    page = Page()
    app = web.Application()
    app.router.add_get("/ip", page.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    page.url = f"http://127.0.0.1:{runner.addresses[0][1]}/ip"
    yield page
    await runner.cleanup()


def proxy_of(squid: Squid, *, password: str | None = None) -> ExitProxy:
    user, right = squid.login
    return ExitProxy("exit_1", "127.0.0.1", squid.port, user, Secret(password or right))


async def test_squids_are_seen_from_their_own_addresses(page: Page) -> None:
    with Squid("127.0.0.31", login=LOGIN) as one, Squid("127.0.0.32", login=LOGIN) as two:
        for squid in (one, two, one):
            seen = await probe(proxy_of(squid), page.url)
            assert seen == Probe(True, seen_ip=squid.leaves_from)
        refused = await probe(proxy_of(one, password="wrong"), page.url)
        assert refused.works is False
        assert "407" in refused.reason
        two.kill()
        dead = await probe(proxy_of(two), page.url)
        assert dead.works is False
        assert "cannot be reached" in dead.reason
        two.start()
        assert (await probe(proxy_of(two), page.url)).works
    assert page.peers == ["127.0.0.31", "127.0.0.32", "127.0.0.31", "127.0.0.32"]


async def test_squid_that_does_not_find_the_page_is_not_condemned(page: Page) -> None:
    """Else a page that is away for an hour would take everybody's exit with it."""
    with Squid("127.0.0.31", login=LOGIN) as squid:
        seen = await probe(proxy_of(squid), "http://127.0.0.1:9/ip")
    assert seen.works is None
    assert "503" in seen.reason
    assert page.peers == []


@pytest.mark.parametrize("behaves", kinds.BROKEN, ids=lambda b: b.__name__)
async def test_broken_exits(
    page: Page, behaves: Callable[[kinds.Streams, bytes], Awaitable[None]]
) -> None:
    async with kinds.an_exit(behaves) as broken:
        seen = await probe(broken.proxy, page.url, within_s=1)
    # A 502 may be the page's fault.
    assert seen.works is (None if behaves is kinds.that_cannot_connect else False)
    assert seen.reason
    assert kinds.PASSWORD not in seen.reason
    assert page.peers == []


async def hang(_: web.Request) -> web.StreamResponse:
    raise ConnectionResetError


def page_that(text: str, status: int = 200) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text, status=status)

    return answer


@pytest.mark.parametrize(
    ("text", "status", "expected"),
    [
        ("192.0.2.7\n", 200, "192.0.2.7"),
        ('{"ip": "2001:DB8::7"}', 200, "2001:db8::7"),
        ('{"proxy": {"ip": "192.0.2.7"}, "ip": "192.0.2.8"}', 200, "192.0.2.7"),
        ('{"ip": 5}', 200, None),
        ('{"ip": "192.0.2.7; drop"}', 200, None),
        ("[" * 20_000, 200, None),
        ("x" * 1_000_000, 200, None),
        ("", 200, None),
        ("192.0.2.7", 500, None),
        ("192.0.2.7", 302, None),
    ],
)
async def test_pages(page: Page, text: str, status: int, expected: str | None) -> None:
    page.answer = page_that(text, status)
    async with kinds.an_exit(kinds.that_works) as works:
        seen = await probe(works.proxy, page.url)
    assert seen.seen_ip == expected
    assert seen.works is (True if expected else None)
