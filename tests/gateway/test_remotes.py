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


async def tell_git(setup: Setup, place: str) -> None:
    remote = Remote(f"https://{place}", (("Authorization", Secret("Basic real")),))
    entry = replace(setup.entry("127.0.0.2"), remotes={f"git/{place}": remote})
    await setup.control.put_table([entry])


@pytest.mark.parametrize(
    "path",
    ["/a.git", "/a.git/info/refs", "/a.git/info/refs?service=git-upload-archive",
     "/a.git/info/refs?service=git-upload-pack&x=1", "/api/v3/user", "/a.git/git-upload-pack/x",
     "/a.git/git-upload-pack?x", "/a/../b.git/git-upload-pack", "/a%2f/git-upload-pack",
     "/a\\b/git-upload-pack", "//git-upload-pack", "/"],
)  # fmt: skip
async def test_a_git_host_is_there_for_git_alone(setup: Setup, path: str) -> None:
    place = setup.upstream.url.removeprefix("http://")
    await tell_git(setup, place)
    request = f"GET /git/{place}{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    answer = await setup.raw("127.0.0.2", request)
    assert answer.split(b" ")[1] in {b"400", b"403"}, answer


async def test_without_a_token_a_git_host_has_to_be_allowed(setup: Setup) -> None:
    await tell_git(setup, "git.example.org")
    url = f"{setup.base}/git/other.example.org/a/info/refs?service=git-upload-pack"
    async with setup.session("127.0.0.2") as http, http.get(url) as answer:
        assert answer.status == 403
        assert "not on the list of allowed hosts" in await answer.text()
