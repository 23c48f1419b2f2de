"""A user's places outside, such as MCP servers: reached by a path, with their secrets put in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hutch.gateway.table import Remote
from hutch.secrets import Secret
from tests.gateway.conftest import Setup


async def tell(setup: Setup, url: str) -> None:
    remote = Remote(url, (("Authorization", Secret("Bearer real")), ("X-Team", Secret("7"))))
    entry = replace(setup.entry("127.0.0.2"), remotes={"mcp/far": remote})
    await setup.control.put_table([entry, setup.entry("127.0.0.3", "user_b", sandbox="sbx_b")])


async def test_secrets_replace_what_the_sandbox_sent_and_the_url_is_exactly_the_users(
    setup: Setup,
) -> None:
    await tell(setup, f"{setup.upstream.url}/v1/mcp?team=7")
    sent = {"Authorization": "Bearer placeholder", "x_team": "8", "Cookie": "a=b", "Mcp-X": "kept"}
    async with (
        setup.session("127.0.0.2") as http,
        http.post(f"{setup.base}/mcp/far", data=b"{}", headers=sent) as answer,
    ):
        assert (answer.status, await answer.text()) == (200, "from upstream")
    (seen,) = setup.upstream.seen
    assert (seen.method, seen.target, seen.body) == ("POST", "/v1/mcp?team=7", b"{}")
    assert seen.values("authorization") == ["Bearer real"]
    assert seen.values("x-team") == ["7"]
    assert (seen.values("cookie"), seen.values("x_team"), seen.values("mcp-x")) == (
        [],
        [],
        ["kept"],
    )


@pytest.mark.parametrize(
    "path", ["/mcp/far/", "/mcp/far/more", "/mcp/far?x=1", "/mcp/other", "/mcp/", "/mcp/../claude"]
)
async def test_nothing_behind_it_is_reached(setup: Setup, path: str) -> None:
    await tell(setup, f"{setup.upstream.url}/v1")
    answer = await setup.raw("127.0.0.2", f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.split(b" ")[1] in {b"400", b"403"}, answer
    assert setup.upstream.seen == []


async def test_another_user_has_no_such_place(setup: Setup) -> None:
    await tell(setup, f"{setup.upstream.url}/v1")
    async with setup.session("127.0.0.3") as http, http.get(f"{setup.base}/mcp/far") as answer:
        assert answer.status == 403
    assert setup.upstream.seen == []


async def test_a_private_address_stays_closed(setup: Setup) -> None:
    for url in ("http://10.0.0.7/v1", "http://169.254.169.254/latest", "http://[::1]/"):
        await tell(setup, url)
        async with setup.session("127.0.0.2") as http, http.get(f"{setup.base}/mcp/far") as answer:
            assert answer.status == 403, url
