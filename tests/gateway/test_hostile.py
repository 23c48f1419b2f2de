"""What a hostile sandbox may try: its own credentials, headers, paths, and framing."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from hutch.gateway.refusals import Refusal
from hutch.gateway.target import parse_target
from tests.gateway.conftest import HEADERS, Setup


def request(target: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    head = "\r\n".join((f"{method} {target} HTTP/1.1", "Host: h", *headers))
    return head.encode("latin-1") + b"\r\n\r\n" + body


CLOSE = "Connection: close"


async def test_nothing_that_could_be_a_credential_goes_out(setup: Setup) -> None:
    own = [
        ("Authorization", "Bearer own-1"),
        ("authorization", "Basic own-2"),
        ("AUTHORIZATION", "own-3"),
        ("X-Api-Key", "own-4"),
        ("x-api-key", "own-5"),
        ("X_Api_Key", "own-6"),
        ("x-goog-api-key", "own-7"),
        ("X-GOOG-API-KEY", "own-8"),
        ("api-key", "own-9"),
        ("Cookie", "session=own-10"),
        ("cookie", "session=own-11"),
        ("Proxy-Authorization", "Basic own-12"),
        ("X-Hutch-User", "own-13"),
        ("x-hutch-anything", "own-14"),
        ("Proxy-Connection", "own-15"),
        ("Keep-Alive", "timeout=own-16"),
        ("X-Once", "own-17"),
        ("TE", "trailers"),
    ]
    lines = [f"{name}: {value}" for name, value in own]
    for provider, header in HEADERS.items():
        answer = await setup.raw(
            "127.0.0.2",
            request(
                f"/{provider}/v1/x?key=own-18&a=%20b&KEY=own-19&k%65y=own-20"
                if provider == "gemini"
                else f"/{provider}/v1/x?a=%20b",
                *lines,
                "Connection: close, X-Once, x-api-key, x-goog-api-key, authorization",
                "X-Kept: one",
                "x-kept: two",
                "anthropic-version: 2023-06-01",
                "User-Agent: cli/1",
            ),
        )
        assert answer.startswith(b"HTTP/1.1 200"), answer
        seen = setup.upstream.seen.pop()
        assert "own-" not in repr(seen)
        assert seen.target == "/base/v1/x?a=%20b"
        assert seen.values(header) == [f"real-{provider}-user_a"]
        assert seen.values("x-kept") == ["one", "two"]
        assert seen.values("user-agent") == ["cli/1"]
        assert seen.values("host") == [setup.upstream.url.removeprefix("http://")]
        names = {name.lower() for name, _ in seen.headers}
        assert names == {"host", "x-kept", "anthropic-version", "user-agent", header.lower()}


@pytest.mark.parametrize(
    "target",
    [
        "/claude/../admin",
        "/claude/v1/../../admin",
        "/claude/%2e%2e/admin",
        "/claude/%2E./admin",
        "/claude/..%2fadmin",
        "/claude/..%5cadmin",
        "/claude/%252e%252e/admin",
        "/claude/..;/admin",
        "/claude/./x",
        "/claude/..",
    ],
)
async def test_no_path_climbs_above_the_base(setup: Setup, target: str) -> None:
    answer = await setup.raw("127.0.0.2", request(target, CLOSE))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'{"type": "error"' not in answer or b"invalid_request_error" in answer
    assert setup.upstream.seen == []


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:1/claude/x",
        "http://user@evil/claude/x",
        "//evil/claude/x",
        "/claudex/v1",
        "/CLAUDE/x",
        "/%63laude/x",
        "/",
        "/health",
        "/table",
        "*",
    ],
)
async def test_no_other_target_leads_anywhere(setup: Setup, target: str) -> None:
    method = "OPTIONS" if target == "*" else "GET"
    answer = await setup.raw("127.0.0.2", request(target, CLOSE, method=method))
    assert answer.split(b" ")[1] in {b"400", b"403"}, answer
    assert setup.upstream.seen == []


async def test_no_answer_can_repeat_the_credential(setup: Setup) -> None:
    """A server that knows TRACE answers with the request as it got it."""
    answer = await setup.raw("127.0.0.2", request("/claude/v1/x", CLOSE, method="TRACE"))
    assert answer.startswith(b"HTTP/1.1 405")
    assert setup.upstream.seen == []


@pytest.mark.parametrize("line", [b"200 a\x01b\r\n", b"200 OK\r\nX-A: a\x01b\r\n"])
async def test_an_answer_that_cannot_be_passed_on_is_no_crash(
    setup: Setup, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + line + b"Content-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await setup.control.put(setup.entry("127.0.0.2", base_url=url))
        answer = await setup.raw("127.0.0.2", request("/claude/v1/x", CLOSE))
    assert answer.startswith(b"HTTP/1.1 502"), answer
    assert "Error handling request" not in caplog.text


async def test_what_follows_in_the_path_and_query_is_kept_byte_for_byte(setup: Setup) -> None:
    rest = "/v1beta/models/a%2Fb:streamGenerateContent//x;y=1/@~'()*!$,=?alt=sse&&x=%zz+%2B?q&="
    await setup.raw("127.0.0.2", request(f"/gemini{rest}", CLOSE))
    assert setup.upstream.seen.pop().target == f"/base{rest}"


SMUGGLED = b"GET /claude/smuggled HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (("Content-Length: 5", "Transfer-Encoding: chunked"), b"0\r\n\r\n" + SMUGGLED),
        (("Transfer-Encoding: chunked", "Content-Length: 5"), b"0\r\n\r\n" + SMUGGLED),
        (("Content-Length: 0", "Content-Length: 44"), SMUGGLED),
        (("Content-Length: +5",), b"12345"),
        (("Content-Length: 5, 5",), b"12345"),
        (("Content-Length: -1",), b""),
        (("Transfer-Encoding: xchunked",), b"0\r\n\r\n" + SMUGGLED),
        (("Transfer-Encoding: chunked, identity",), b"0\r\n\r\n" + SMUGGLED),
        (("Transfer-Encoding : chunked",), b"0\r\n\r\n" + SMUGGLED),
        (("Transfer-Encoding: chunked",), b"zz\r\nx\r\n0\r\n\r\n"),
        (("Transfer-Encoding: chunked",), b"5\r\nhello world\r\n0\r\n\r\n"),
        (("Transfer-Encoding: chunked",), b"5;\x00\r\nhello\r\n0\r\n\r\n"),
        (("X-A: b\r\n folded: c",), b""),
        (("X-A: b\nX-Api-Key: injected",), b""),
        (("X-A: b\rX-Api-Key: injected",), b""),
        (("X-A: b\x00c",), b""),
        (("X A: b",), b""),
        ((": b",), b""),
        (("X-A: " + "b" * 70_000,), b""),
        (tuple(f"X-{n}: b" for n in range(500)), b""),
    ],
)
async def test_what_could_be_read_in_two_ways_is_refused(
    setup: Setup, headers: tuple[str, ...], body: bytes
) -> None:
    answer = await setup.raw(
        "127.0.0.2", request("/claude/v1/messages", *headers, method="POST", body=body)
    )
    assert b"HTTP/1.1 200" not in answer, answer
    assert all("smuggled" not in seen.target for seen in setup.upstream.seen)
    assert "injected" not in repr(setup.upstream.seen)
    assert [s for s in setup.upstream.seen if s.body] == []


async def test_the_log_tells_who_and_how_much_and_nothing_secret(setup: Setup) -> None:
    with capture_logs() as logs:
        async with (
            setup.session("127.0.0.2") as http,
            http.post(
                f"{setup.base}/claude/v1/messages?beta=private-1",
                data=b"private-2",
                headers={"x-api-key": "private-3", "x-private": "private-4"},
            ) as response,
        ):
            await response.read()
    (line,) = logs
    assert line.pop("ms") > 0
    assert line == {
        "event": "gateway.request",
        "log_level": "info",
        "user": "user_a",
        "sandbox": "sbx_a",
        "kind": "route",
        "provider": "claude",
        "host": None,
        "method": "POST",
        "path": "/claude/v1/messages",
        "status": 200,
        "code": None,
        "exit": None,
        "bytes_up": 9,
        "bytes_down": 13,
    }


def test_a_fragment_or_a_space_cannot_be_forwarded() -> None:
    for target in ("/claude/a#b", "/claude/a b", "/claude/a\\b", "/claude/\u00e9", "/claude/a?b#c"):
        with pytest.raises(Refusal):
            parse_target(target)
