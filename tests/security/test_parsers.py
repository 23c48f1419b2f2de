"""Every reader of foreign bytes that has no property test beside its own tests: nothing but its own
refusal comes out of it, whatever goes in.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.client import UnexpectedAnswer, Unreachable
from hutch.client.following import Following
from hutch.errors import InvalidRequest
from hutch.gateway.headers import to_host, to_provider
from hutch.gateway.refusals import Refusal
from hutch.gateway.table import Route
from hutch.gateway.target import parse_absolute, parse_target
from hutch.gateway.visitor import Visitor
from hutch.sandboxes.runtime_client import RuntimeUnreachable, sse_data
from hutch.secrets import Secret
from hutch_runtime.protocol import EVENT_TYPES, PROVIDERS
from hutch_runtime.providers.base import Outcome
from hutch_runtime.providers.claude_lines import ClaudeTurn

_WORDS = st.sampled_from(
    [
        *("type", "subtype", "event", "delta", "text", "thinking", "message", "content", "id"),
        *("assistant", "user", "result", "system", "stream_event", "content_block_delta"),
        *("text_delta", "thinking_delta", "tool_use", "tool_result", "name", "input", "is_error"),
        *("usage", "input_tokens", "output_tokens", "modelUsage", "total_cost_usd", "error"),
        *("api_retry", "attempt", "retry_delay_ms", "error_status", "TodoWrite", "todos"),
        *("success", "terminal_reason", "stop_reason", "api_error_status", "tool_use_id"),
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=6),
    max_leaves=14,
)


class Log:
    def __init__(self) -> None:
        self.kinds: list[str] = []

    def emit(self, event_type: str, /, **_: Any) -> None:
        self.kinds.append(event_type)


@given(st.lists(st.dictionaries(_WORDS, _JSON, max_size=6), max_size=6), st.booleans())
def test_hostile_lines_never_break_claudes_translator(
    lines: list[dict[str, Any]],
    cancelled: bool,  # noqa: FBT001  as hypothesis gives it
) -> None:
    log = Log()
    turn = ClaudeTurn(log)
    for line in lines:
        outcome = turn.feed(line, cancelled=cancelled)
        assert outcome is None or isinstance(outcome, Outcome)
    assert set(log.kinds) <= EVENT_TYPES


_STREAM = st.lists(
    st.sampled_from(
        [b"data:", b"data: {}", b"\n", b"\r\n", b": beat", b"id: 1", b"\xff", b"\0", b"{"]
    )
    | st.binary(max_size=9),
    max_size=30,
)


async def _chunks(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@given(_STREAM)
def test_a_runtimes_stream_is_read_alike_however_it_is_cut(pieces: list[bytes]) -> None:
    async def read(cut: list[bytes]) -> list[bytes]:
        return [data async for data in sse_data(_chunks(cut))]

    whole = b"".join(pieces)
    expected = [line[5:].strip() for line in whole.split(b"\n")[:-1] if line.startswith(b"data:")]
    assert asyncio.run(read(pieces)) == asyncio.run(read([whole])) == expected


def test_a_line_of_a_stream_without_an_end_is_given_up() -> None:
    async def read() -> None:
        async for _ in sse_data(_chunks([b"data:" + b"x" * 100_000] * 60)):
            pass

    with pytest.raises(RuntimeUnreachable):
        asyncio.run(read())


@given(st.lists(st.text(max_size=9), max_size=5), st.data())
def test_a_client_reads_what_was_written_however_it_is_cut(
    texts: list[str], data: st.DataObject
) -> None:
    head = {"run_id": "run_1", "time": 1.0, "type": "text.delta"}
    events = [{**head, "seq": seq, "text": text} for seq, text in enumerate(texts, 1)]
    lines = [json.dumps(event, ensure_ascii=False) for event in events]
    stream = b"".join(f"id: 1\ndata: {line}\n\n".encode("utf-8", "replace") for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    following = Following(run_id="run_1", retry_for_s=0)
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        following.feed(stream[start:end])
    assert [dict(event.raw) for event in following.take()] == [
        json.loads(line.encode("utf-8", "replace")) for line in lines
    ]


@given(st.binary() | st.text().map(lambda text: f"data: {text}\n".encode("utf-8", "replace")))
def test_a_client_refuses_what_is_no_event(stream: bytes) -> None:
    following = Following(run_id="run_1", retry_for_s=0)
    try:
        following.feed(stream)
        list(following.take())
    except (UnexpectedAnswer, Unreachable):
        pass


_TARGET = st.lists(
    st.sampled_from(
        [
            *("/", "claude", "codex", "gemini", "..", ".", "%2e", "%2E%2e", "%252e", ";", "\\"),
            *("%2f", "%5c", "?", "#", "key=", "&", "http://", "@", ":80", "[::1]", "a", " ", "\r"),
            *("\n", "\0", "%00", "%", "é", "//", "127.0.0.1", "0x7f", "%zz", "access_token=x"),
        ]
    ),
    max_size=10,
).map("".join)


@given(_TARGET | st.text(max_size=30))
def test_no_target_leads_out_of_its_base(text: str) -> None:
    try:
        target = parse_target(text)
    except Refusal:
        return
    assert target.provider in PROVIDERS
    url = target.url("https://api.example.org/base")
    assert (url.scheme, url.host, url.port) == ("https", "api.example.org", 443)
    path = str(url.raw_path)
    assert path.startswith("/base")
    decoded = unquote(unquote(unquote(path)))
    assert not {"..", "."} & {part.partition(";")[0] for part in decoded.split("/")}
    assert not any(c in str(url) for c in "\r\n\0 ")
    assert "access_token=" not in target.query or target.provider != "gemini"


@given(_TARGET.map("http://".__add__))
def test_an_absolute_target_is_asked_for_at_the_host_that_was_checked(text: str) -> None:
    try:
        host, port, url = parse_absolute(text)
    except InvalidRequest:
        return
    assert url.raw_host == host
    assert url.port == port
    assert url.user is None
    assert not any(c in str(url) for c in "\r\n\0 ")


_HEAD = st.lists(
    st.sampled_from(
        [
            *(b"GET / HTTP/1.1\r\n", b"CONNECT a:443 HTTP/1.1\r\n", b"Host: a\r\n", b"\r\n", b"\n"),
            *(b"\r", b" ", b"\t", b"\0", b":", b"Content-Length: 5\r\n", b"Upgrade: websocket\r\n"),
            *(b"Transfer-Encoding: chunked\r\n", b"HTTP/9.9", b"\xff", b"X: a\r\n b\r\n", b"a"),
        ]
    )
    | st.binary(max_size=6),
    max_size=12,
).map(b"".join)


@given(_HEAD)
def test_a_head_is_read_strictly_or_refused(head: bytes) -> None:
    head += b"\r\n\r\n"
    try:
        _, request = Visitor(None, "10.0.0.2", head).parsed()  # type: ignore[arg-type]  # unread
    except Refusal:
        return
    assert b"\n" not in request.target
    names = {name for name, _ in request.headers}
    assert not names & {b"content-length", b"transfer-encoding"}
    assert all(b"\r" not in value and b"\n" not in value for _, value in request.headers)


_NAMES = st.sampled_from(
    [
        *("Authorization", "x-api-key", "X_Api_Key", "x-goog-api-key", "Cookie", "Connection"),
        *("Proxy-Authorization", "X-Hutch-User", "Host", "Accept", "Keep-Alive", "Te", "Upgrade"),
    ]
)


@given(st.lists(st.tuples(_NAMES, st.text(max_size=20).map("own".__add__)), max_size=12))
def test_no_header_that_could_be_a_credential_goes_out(headers: list[tuple[str, str]]) -> None:
    route = Route("https://api.example.org", (("x-api-key", Secret("real")),))
    kept = to_provider(headers, route)
    assert kept.getall("x-api-key") == ["real"]
    secrets = {"authorization", "x-goog-api-key", "cookie", "proxy-authorization", "x-hutch-user"}
    assert not secrets & {name.lower() for name in kept}
    assert "proxy-authorization" not in {name.lower() for name in to_host(headers)}
