from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hutch_runtime.jsonrpc import Connection, ConnectionLost, RpcError


class Wire:
    """The other side, held by the test."""

    def __init__(self, *, broken: bool = False) -> None:
        self.sent: list[dict[str, Any]] = []
        self.notified: list[tuple[str, dict[str, Any]]] = []
        self.unreadable: list[str] = []
        self.broken = broken
        self.connection = Connection(
            self.write,
            notified=lambda method, params, _line: self.notified.append((method, params)),
            asked=self.asked,
            unreadable=self.unreadable.append,
        )

    async def write(self, line: bytes) -> None:
        if self.broken:
            raise ConnectionLost("broken")
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        self.sent.append(json.loads(line))

    def asked(self, method: str, params: dict[str, Any], line: str) -> object:
        assert json.loads(line)["method"] == method
        if method == "known":
            return {"got": params}
        raise RpcError(-32601, "no such method")

    def says(self, message: object) -> None:
        self.connection.feed(json.dumps(message).encode())

    async def sent_count(self, count: int) -> None:
        # One turn of the loop at a time: nothing here takes time.
        while len(self.sent) < count:
            await asyncio.sleep(0)


async def test_a_request_gets_its_own_answer() -> None:
    wire = Wire()
    first = asyncio.create_task(wire.connection.request("one", {"a": 1}))
    second = asyncio.create_task(wire.connection.request("two", {}))
    await wire.sent_count(2)
    assert [sent["method"] for sent in wire.sent] == ["one", "two"]
    wire.says({"jsonrpc": "2.0", "id": wire.sent[1]["id"], "result": "second"})
    wire.says({"jsonrpc": "2.0", "method": "between", "params": {"x": 1}})
    wire.says({"jsonrpc": "2.0", "id": wire.sent[0]["id"], "result": "first"})
    assert await first == "first"
    assert await second == "second"
    assert wire.notified == [("between", {"x": 1})]


async def test_an_error_answer_is_raised_with_its_code() -> None:
    wire = Wire()
    asking = asyncio.create_task(wire.connection.request("one", {}))
    await wire.sent_count(1)
    wire.says({"id": wire.sent[0]["id"], "error": {"code": 401, "message": "no", "data": {"d": 1}}})
    with pytest.raises(RpcError) as caught:
        await asking
    assert (caught.value.code, caught.value.message, caught.value.data) == (401, "no", {"d": 1})


@pytest.mark.parametrize("error", ["plain", 7, {"code": "x"}, {"message": ["odd"]}, {"code": True}])
async def test_a_malformed_error_is_still_an_error(error: object) -> None:
    wire = Wire()
    asking = asyncio.create_task(wire.connection.request("one", {}))
    await wire.sent_count(1)
    wire.says({"id": wire.sent[0]["id"], "error": error})
    with pytest.raises(RpcError):
        await asking


async def test_death_fails_what_waits_and_what_follows() -> None:
    wire = Wire()
    asking = [asyncio.create_task(wire.connection.request("one", {})) for _ in range(3)]
    await wire.sent_count(3)
    wire.connection.lose("killed by signal 9")
    for task in asking:
        with pytest.raises(ConnectionLost, match="signal 9"):
            await task
    with pytest.raises(ConnectionLost, match="signal 9"):
        await wire.connection.request("more", {})
    with pytest.raises(ConnectionLost):
        await wire.connection.notify("more")


async def test_a_pipe_that_broke_is_a_lost_connection() -> None:
    with pytest.raises(ConnectionLost):
        await Wire(broken=True).connection.request("one", {})


async def test_an_answer_that_never_comes_times_out_and_is_forgotten() -> None:
    wire = Wire()
    with pytest.raises(TimeoutError):
        await wire.connection.request("one", {}, timeout_s=0.01)
    wire.says({"id": wire.sent[0]["id"], "result": 1})  # late: ignored


async def test_answers_to_no_question_are_ignored() -> None:
    wire = Wire()
    asking = asyncio.create_task(wire.connection.request("one", {}))
    await wire.sent_count(1)
    for bogus in (99, "1", None, True, [1], {"a": 1}, 1.5):
        wire.says({"id": bogus, "result": "stolen"})
    wire.says({"id": 1, "result": "right"})
    wire.says({"id": 1, "result": "again"})
    assert await asking == "right"


async def test_requests_of_the_other_side_are_answered_or_refused() -> None:
    wire = Wire()
    wire.says({"id": "abc", "method": "known", "params": {"p": 1}})
    wire.says({"id": 5, "method": "unknown"})
    await wire.sent_count(2)
    assert wire.sent[0] == {"jsonrpc": "2.0", "id": "abc", "result": {"got": {"p": 1}}}
    assert wire.sent[1]["error"]["code"] == -32601


@pytest.mark.parametrize(
    "line",
    [b"not json", b"[1]", b"7", b"{}", b'{"id":1}', b'{"method":5}', b"\xff\xfe", b"[" * 9999],
)
async def test_what_is_no_message_is_reported_and_skipped(line: bytes) -> None:
    wire = Wire()
    wire.connection.feed(line)
    wire.connection.feed(b"  \n")
    wire.says({"method": "after"})
    assert len(wire.unreadable) == 1
    assert wire.notified == [("after", {})]


@given(text=st.text())
async def test_any_text_survives_the_way_out(text: str) -> None:
    wire = Wire()
    await wire.connection.notify("say", {"text": text})
    assert wire.sent[0]["params"]["text"] == text


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
_KEYS = ("id", "method", "params", "result", "error")


@settings(max_examples=200)
@given(
    noise=st.lists(st.dictionaries(st.sampled_from(_KEYS), _JSON) | _JSON, max_size=8),
    order=st.permutations(range(4)),
)
async def test_hostile_lines_never_break_or_answer_a_request(
    noise: list[object], order: list[int]
) -> None:
    wire = Wire()
    asking = [asyncio.create_task(wire.connection.request("ask", {"n": n})) for n in range(4)]
    await wire.sent_count(4)
    ids = [sent["id"] for sent in wire.sent]
    for message in noise:
        if isinstance(message, dict) and message.get("id") in ids:
            message["id"] = "other"
        wire.says(message)
    for index in order:
        wire.says({"id": ids[index], "result": index})
    assert await asyncio.gather(*asking) == [0, 1, 2, 3]
