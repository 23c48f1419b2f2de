"""What a runtime that was taken over sends in place of answers, byte by byte, and its price."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from hutch.app import Hutch
from hutch.logins.runtime import LoginRuntime
from hutch.runs.service import NewRun
from hutch.sandboxes import intake, runtime_client
from hutch.sandboxes.inside import Inside, inside
from hutch.sandboxes.intake import Intake
from hutch.sandboxes.models import ImageRef, Sandbox
from hutch.sandboxes.runtime_client import RuntimeClient, RuntimeRefused, RuntimeUnreachable
from hutch.terminals.connection import Connection
from hutch_runtime.frames import DATA, control, frame
from tests.orchestrator.conftest import World

pytestmark = pytest.mark.timeout(30)

Answer = Callable[[], AsyncIterator[bytes]]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


def once(data: bytes) -> Answer:
    async def answer() -> AsyncIterator[bytes]:
        yield data

    return answer


def for_ever(piece: bytes, first: bytes = b"") -> Answer:
    async def answer() -> AsyncIterator[bytes]:
        yield first
        while True:
            yield piece

    return answer


def whole(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> Answer:
    head = b"HTTP/1.1 %s\r\ncontent-length: %d\r\n" % (status, len(body))
    return once(head + b"".join(line + b"\r\n" for line in headers) + b"\r\n" + body)


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[tuple[RuntimeClient, Sandbox]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            async for piece in answer():
                writer.write(piece)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made = Sandbox.begin(ImageRef("x", None), user_id="user_x", desired="running", at=0)
    port = server.sockets[0].getsockname()[1]
    client = RuntimeClient(b"secret")
    try:
        yield client, replace(made, address="127.0.0.1", port=port)
    finally:
        await client.close()
        server.close()


async def follow(client: RuntimeClient, sandbox: Sandbox) -> int:
    count = 0
    async with client.follow(sandbox, "run_x", after=0) as events:
        async for _ in events:
            count += 1
    return count


@pytest.mark.parametrize(
    "piece",
    [b"\n" * 4096, b": still here\n\n" * 300, b"id: 1\n" * 600],
    ids=["lines", "heartbeats", "fields"],
)
async def test_a_flood_of_nothing_is_given_up(piece: bytes) -> None:
    async with answering(for_ever(piece, HEAD)) as (client, sandbox):
        with pytest.raises(RuntimeUnreachable):
            await follow(client, sandbox)


async def test_what_a_long_quiet_run_has_of_heartbeats_is_no_flood() -> None:
    hour = b": still here\n\n" * 240
    async with answering(once(HEAD + hour + b'id: 1\ndata: {"a": 1}\n\n' * 9000)) as (
        client,
        sandbox,
    ):
        assert await follow(client, sandbox) == 9000


async def terminal(client: RuntimeClient, sandbox: Sandbox) -> None:
    async def given() -> AsyncIterator[bytes]:
        yield control("here")

    async with client.exchange(sandbox, "/terminals/x", given()):
        pass


@pytest.mark.parametrize("ask", [follow, terminal])
async def test_answers_before_the_answer_come_to_an_end(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[RuntimeClient, Sandbox], Awaitable[object]]
) -> None:
    monkeypatch.setattr(runtime_client, "_HEAD_S", 0.3)
    hints = for_ever(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    async with answering(hints) as (client, sandbox):
        with pytest.raises(RuntimeUnreachable):
            await ask(client, sandbox)


async def test_nothing_is_unpacked() -> None:
    packed = gzip.compress(b'{"status": "ready"}')
    async with answering(whole(packed, b"content-encoding: gzip")) as (client, sandbox):
        with pytest.raises(RuntimeUnreachable):
            await client.health(sandbox)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 1' + b"0" * 400 + b"}",
        b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"a": "\xed\xa0\x80"}',
        '{"a": 1}'.encode("utf-16"),
        b"[]",
        b"",
    ],
)
async def test_an_answer_that_would_hurt_whoever_reads_on_is_none(body: bytes) -> None:
    async with answering(whole(body)) as (client, sandbox):
        with pytest.raises(RuntimeUnreachable):
            await client.health(sandbox)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b'"run_not_found"', "run_not_found"),
        (b'"\\u001b[2Jinvalid"', ""),
        (b'"key_expired"', ""),  # the API's own, for other things
        (b"[[]]", ""),
    ],
)
async def test_a_refusal_has_a_code_of_the_runtimes_or_none(said: bytes, code: str) -> None:
    body = b'{"error": {"code": %s, "message": "m"}}' % said
    async with answering(whole(body, status=b"409 Conflict")) as (client, sandbox):
        with pytest.raises(RuntimeRefused) as refused:
            await client.health(sandbox)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "said",
    [
        {"agents": {}, "disk": []},
        {"agents": [[], 1, None, {"provider": []}, {"provider": "root"}], "disk": {"home": 1}},
        {"disk": {"home": {"bytes": -1, "used_bytes": 0, "files": 0, "used_files": 0}}},
        {"disk": {"home": {"bytes": 1, "used_bytes": 0, "files": 1 << 60, "used_files": 0}}},
        {"disk": {"home": {"bytes": 1.5, "used_bytes": 0, "files": 1, "used_files": 0}}},
    ],
)
def test_what_a_runtime_says_of_its_inside_is_believed_as_far_as_it_can_be(
    said: dict[str, Any],
) -> None:
    assert inside(said) == Inside()


@pytest.mark.parametrize("at", ["1e300", "-1", "true", '"now"', "9" * 25])
async def test_a_sign_in_ends_at_a_time_that_there_is(at: str) -> None:
    body = f'{{"state": "pending", "expires_at": {at}}}'.encode()
    async with answering(whole(body)) as (client, sandbox):
        said = await LoginRuntime(client).sign_in(sandbox, "codex")
    assert said.expires_at in {0.0, 1.0}


async def test_a_flood_of_events_is_taken_at_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("hutch.sandboxes.intake.asyncio.sleep", sleep)
    pace = Intake()
    for _ in range(4900):
        await pace.took()
    assert set(slept) == {0}  # others have their turn, and nobody is held up
    for _ in range(200 + intake.PER_S):
        await pace.took()
    assert max(slept) > 0.5


@pytest.mark.parametrize(
    "piece",
    [frame(DATA, b""), frame(DATA, b"x"), control("alive"), control("tomorrow")],
    ids=["empty", "byte", "alive", "unknown"],
)
async def test_so_is_a_terminals_flood_of_small_frames(
    monkeypatch: pytest.MonkeyPatch, piece: bytes
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(60):
            yield piece * 100

    monkeypatch.setattr("hutch.sandboxes.intake.asyncio.sleep", sleep)
    async for _ in Connection().read(pieces()):
        pass
    assert max(slept, default=0) > 0.5


async def test_what_a_program_prints_is_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(_: float) -> None:
        raise AssertionError("it was")

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(8000):
            yield frame(DATA, bytes(4096))

    monkeypatch.setattr("hutch.sandboxes.intake.asyncio.sleep", sleep)
    said = [output async for output in Connection().read(pieces())]
    assert len(said) == 8000


@pytest.mark.parametrize(
    "rest",
    [
        b'"type": "text", "text": "a", "time": 1' + b"0" * 400,
        b'"type": "text", "time": 1, "text": "\xed\xa0\x80"',
        b'"type": "plan", "time": 1, "items": [{"text": "a", "status": []}]',
        b'"type": "text", "time": 1, "text": "\\u0061", "x": ' + b"[" * 800 + b"]" * 800,
    ],
    ids=["number", "surrogate", "list", "depth"],
)
async def test_no_event_leaves_a_run_without_an_end(
    world: World, hutch: Hutch, user_id: str, rest: bytes
) -> None:
    run = await hutch.runs.submit(user_id, NewRun("claude", "x"))
    world.runtime.raw = [b'{"run_id": "%s", "seq": 1, %s}' % (run.id.encode(), rest)]
    ended = await hutch.runs.finished(user_id, run.id)
    assert (ended.state, ended.error_code) == ("failed", "sandbox_misbehaved")
