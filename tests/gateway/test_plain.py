"""Plain HTTP with the gateway as a proxy: the same list, and the sandbox's own headers."""

from __future__ import annotations

from pathlib import Path

from hutch.gateway.table import HostRule
from tests.gateway.conftest import Setup

SANDBOX = "127.0.0.2"


async def test_headers_pass_but_those_of_the_connection(setup: Setup) -> None:
    place = setup.upstream.url.removeprefix("http://")
    host, _, port = place.partition(":")
    await setup.control.put(setup.entry(SANDBOX, allow=[HostRule(host, int(port))]))
    answer = await setup.raw(
        SANDBOX,
        f"POST {setup.upstream.url}/a%2Fb?c=d HTTP/1.1\r\nHost: elsewhere.example\r\n"
        "Authorization: Basic own\r\nCookie: a=b\r\nX-Api-Key: own-key\r\nX-Once: 1\r\n"
        "Proxy-Authorization: Basic c2VjcmV0\r\nProxy-Connection: keep-alive\r\n"
        "Connection: close, X-Once\r\nContent-Length: 4\r\n\r\nbody".encode(),
    )
    assert answer.startswith(b"HTTP/1.1 200"), answer
    seen = setup.upstream.seen.pop()
    assert (seen.method, seen.target, seen.body) == ("POST", "/a%2Fb?c=d", b"body")
    assert {name.lower(): value for name, value in seen.headers} == {
        "host": place,  # where it goes, not what the sandbox said
        "authorization": "Basic own",
        "cookie": "a=b",
        "x-api-key": "own-key",
        "content-length": "4",
        "connection": "close",  # ours: one request alone
    }


async def test_what_is_not_allowed_says_so(setup: Setup) -> None:
    async with (
        setup.session(SANDBOX) as http,
        http.get("http://denied.example/x", proxy=setup.base) as response,
    ):
        assert response.status == 403
        assert 'PUT /v1/network {"allow": ["denied.example:80"]}' in await response.text()


async def test_only_http_urls(setup: Setup) -> None:
    for url in ("https://denied.example/x", "ftp://denied.example/", "http://u:p@a.example/",
                "http://a.example:80:80/", "http://a.example?x", "http:///x"):  # fmt: skip
        answer = await setup.raw(SANDBOX, f"GET {url} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert answer.split()[1] in {b"400", b"403"}, (url, answer)
    assert setup.upstream.seen == []


def test_default_lists_name_no_registry() -> None:
    """Those belong to the operator's own list: each opens a way to publish what was read."""
    source = Path(__file__).parents[2] / "src" / "hutch"
    text = (source / "gateway" / "hosts.py").read_text() + (source / "config.py").read_text()
    for word in ("npm", "pypi", "crates", "rubygems", "docker.io"):
        assert word not in text
