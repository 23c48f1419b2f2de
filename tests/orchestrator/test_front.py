"""A front before leaders that die at each moment of a request; real sockets on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp import web

from hutch.accounts.sources import Sources
from hutch.api import front as front_module
from hutch.api.front import Front
from hutch.store.seat import Leader


class Throne:
    """Says who leads, as a seat does."""

    def __init__(self) -> None:
        self.leader: Leader | None = None
        self._term = 0

    def give(self, url: str) -> None:
        self._term += 1
        self.leader = Leader(self._term, url, 0.0)

    async def changed(self, within_s: float) -> None:
        await asyncio.sleep(within_s)


@dataclass
class Frames:
    """What is said over a WebSocket, and its close code; without one the leader dies."""

    texts: list[str]
    code: int | None = None
    reason: str = ""


class Echo:
    """A terminal that says what it is told; "die" and "close" end it."""

    async def carry(self, request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.data == "die":
                assert request.transport is not None
                request.transport.abort()
            elif message.data == "close":
                await socket.close(code=4409)
            elif message.type is aiohttp.WSMsgType.TEXT:
                await socket.send_str(message.data)
            else:
                await socket.send_bytes(message.data)
        return socket


@dataclass
class FakeLeader:
    """Answers as told, and writes down what it was asked."""

    answers: list[Any] = field(default_factory=list)
    asked: list[web.BaseRequest] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request)
        self.bodies.append(await request.read())
        answer = self.answers.pop(0)
        if answer == "dies":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if isinstance(answer, Echo):
            return await answer.carry(request)
        if isinstance(answer, Frames):
            return await self._frames(request, answer)
        if isinstance(answer, list):
            return await self._stream(request, answer)
        return web.json_response(answer, headers={"x-from": self.url})

    async def _stream(self, request: web.BaseRequest, parts: list[Any]) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"content-type": "text/event-stream", "x-hutch-run": "run_1"}
        )
        await response.prepare(request)
        for part in parts:
            if part == "dies":
                await asyncio.sleep(0.05)
                assert request.transport is not None
                request.transport.abort()
                return response
            await response.write(part)
        return response

    async def _frames(self, request: web.BaseRequest, said: Frames) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("hutch.events",))
        await socket.prepare(request)
        for text in said.texts:
            await socket.send_str(text)
        if said.code is None:
            await asyncio.sleep(0.05)
            assert request.transport is not None
            request.transport.abort()
        else:
            await socket.close(code=said.code, message=said.reason.encode())
        return socket


def frame(seq: int, kind: str = "text.delta") -> str:
    entry = {"run_id": "run_1", "seq": seq, "time": 1.5, "type": kind, "text": '"seq":9'}
    return json.dumps(entry, separators=(",", ":"))


def event(seq: int, kind: str = "text.delta") -> bytes:
    return f"id: {seq}\nevent: {kind}\ndata: {seq}\n\n".encode()


@contextlib.asynccontextmanager
async def a_leader(*answers: Any) -> AsyncIterator[FakeLeader]:
    one = FakeLeader(list(answers))
    runner = web.ServerRunner(web.Server(one.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield one
    await runner.cleanup()


@dataclass
class Setup:
    throne: Throne
    url: str
    http: aiohttp.ClientSession

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, str]:
        async with self.http.request(method, self.url + path, **options) as answer:
            return answer.status, (await answer.read()).decode()


@pytest.fixture
async def setup(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setup]:
    monkeypatch.setattr(front_module, "WAIT_S", 1.0)
    monkeypatch.setattr(front_module, "_STREAM_WAIT_S", 1.0)
    throne = Throne()
    front = Front(throne, Sources([], b"secret"))  # type: ignore[arg-type]  # as much of a seat as it asks for
    config = uvicorn.Config(front, port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as http:
        yield Setup(throne, f"http://127.0.0.1:{port}", http)
    server.should_exit = True
    await task
    await front.close()


async def test_a_request_arrives_as_it_was_sent_and_its_answer_comes_back(setup: Setup) -> None:
    async with a_leader({"a": 1}) as leader:
        setup.throne.give(leader.url)
        headers = {"authorization": "Bearer k", "x-hutch-user": "u", "x-hutch-forwarded": "9"}
        headers["x-hutch-client"] = "6.6.6.6 00"
        answer = await setup.ask("PUT", "/v1/x%2Fy?q=%20", data=b"body", headers=headers)
        assert answer == (200, '{"a": 1}')
        (asked,) = leader.asked
        assert (asked.method, asked.raw_path, leader.bodies) == (
            "PUT",
            "/v1/x%2Fy?q=%20",
            [b"body"],
        )
        assert asked.headers["authorization"] == "Bearer k"
        assert asked.headers["x-hutch-user"] == "u"
        assert asked.headers.getall("x-hutch-forwarded") == ["1"]
        assert "idempotency-key" not in asked.headers
        # The leader is told who asked, in a way that no client can imitate.
        said = [(b"x-hutch-client", v.encode()) for v in asked.headers.getall("x-hutch-client")]
        assert Sources([], b"secret").of("203.0.113.5", said) == "127.0.0.1"


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/runs"), ("POST", "/v1/runs")])
async def test_what_may_be_repeated_is_sent_to_the_next_leader(
    setup: Setup, method: str, path: str
) -> None:
    async with a_leader("dies") as first, a_leader({"from": "second"}) as second:
        setup.throne.give(first.url)
        asking = asyncio.create_task(setup.ask(method, path, data=b"{}"))
        while not first.asked:
            await asyncio.sleep(0.01)
        setup.throne.give(second.url)
        assert await asking == (200, '{"from": "second"}')
        keys = [one.asked[0].headers.get("idempotency-key") for one in (first, second)]
        assert keys[0] == keys[1]
        assert (keys[0] is not None) == (method == "POST")


async def test_a_clients_own_key_is_kept(setup: Setup) -> None:
    async with a_leader({}) as leader:
        setup.throne.give(leader.url)
        await setup.ask("POST", "/v1/runs", data=b"{}", headers={"idempotency-key": "mine"})
        assert leader.asked[0].headers.getall("idempotency-key") == ["mine"]


async def test_a_change_whose_fate_is_not_known_is_not_repeated(setup: Setup) -> None:
    async with a_leader("dies") as first, a_leader({}) as second:
        setup.throne.give(first.url)
        asking = asyncio.create_task(setup.ask("DELETE", "/v1/container"))
        while not first.asked:
            await asyncio.sleep(0.01)
        setup.throne.give(second.url)
        status, text = await asking
        assert status == 503
        assert "not known" in json.loads(text)["error"]["message"]
        assert second.asked == []


async def test_a_change_that_was_not_received_waits_for_the_next_leader(setup: Setup) -> None:
    async with a_leader() as dead:
        pass
    async with a_leader({"done": True}) as second:
        setup.throne.give(dead.url)
        asking = asyncio.create_task(setup.ask("DELETE", "/v1/container"))
        await asyncio.sleep(0.2)
        setup.throne.give(second.url)
        assert await asking == (200, '{"done": true}')


async def test_the_wait_for_a_leader_ends(setup: Setup) -> None:
    async with setup.http.get(setup.url + "/v1/runs") as answer:
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert (await answer.json())["error"]["code"] == "unavailable"


@pytest.mark.parametrize("cut", ["dies", "between", "in an event"])
async def test_a_stream_that_is_cut_goes_on_without_a_gap(setup: Setup, cut: str) -> None:
    ends: dict[str, list[Any]] = {
        "dies": ["dies"],
        "between": [],
        "in an event": [b"id: 3\nev", "dies"],
    }
    first_part = [event(1), b": heartbeat\n\n", event(2), *ends[cut]]
    rest = [event(3), event(4, "run.finished")]
    run = {"finished_at": None}
    async with a_leader(first_part) as first, a_leader(run, rest) as second:
        setup.throne.give(first.url)
        headers = {"authorization": "Bearer k"}
        asking = asyncio.create_task(setup.ask("POST", "/v1/runs", data=b"{}", headers=headers))
        while not first.asked:
            await asyncio.sleep(0.01)
        setup.throne.give(second.url)
        status, text = await asking
        assert status == 200
        assert [line for line in text.splitlines() if line.startswith("id")] == [
            f"id: {seq}" for seq in (1, 2, 3, 4)
        ]
        looked, followed = second.asked
        assert looked.path == "/v1/runs/run_1"
        assert followed.path == "/v1/runs/run_1/events"
        assert followed.headers["last-event-id"] == "2"
        assert followed.headers["authorization"] == "Bearer k"


async def test_a_stream_of_a_run_that_has_ended_is_not_waited_for(setup: Setup) -> None:
    async with a_leader([], {"finished_at": 1.0}, []) as leader:
        setup.throne.give(leader.url)
        asked = await setup.ask("GET", "/v1/runs/run_1/events", headers={"last-event-id": "9"})
        assert asked == (200, "")
        assert leader.asked[2].headers["last-event-id"] == "9"


async def test_too_much_is_refused_before_it_is_sent(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_module, "most", lambda _method, _path: 1000)
    async with a_leader({}) as leader:
        setup.throne.give(leader.url)
        status, _ = await setup.ask("POST", "/v1/runs", data=b"x" * 1001)
        assert status == 413
        assert leader.asked == []


async def heard(setup: Setup, **options: Any) -> tuple[list[str], int | None]:
    path = "/v1/runs/run_1/events?after=1"
    async with setup.http.ws_connect(setup.url + path, **options) as socket:
        texts = [message.data async for message in socket]
        return texts, socket.close_code


async def test_a_websocket_that_is_cut_goes_on_without_a_gap(setup: Setup) -> None:
    first_part, rest = [frame(2), frame(3)], [frame(4), frame(5, "run.finished")]
    async with a_leader(Frames(first_part)) as first, a_leader(Frames(rest, 1000)) as second:
        setup.throne.give(first.url)
        headers = {"authorization": "Bearer k", "x-hutch-user": "u"}
        asking = asyncio.create_task(heard(setup, headers=headers))
        while not first.asked:
            await asyncio.sleep(0.01)
        setup.throne.give(second.url)
        assert await asking == ([*first_part, *rest], 1000)
        for leader, after in ((first, "1"), (second, "3")):
            (asked,) = leader.asked
            assert asked.query["after"] == after
            assert asked.headers["authorization"] == "Bearer k"
            assert asked.headers["x-hutch-user"] == "u"
            assert asked.headers["x-hutch-forwarded"] == "1"


async def test_a_websocket_by_ticket_is_told_to_come_back(setup: Setup) -> None:
    async with a_leader(Frames([frame(2)])) as first, a_leader() as second:
        setup.throne.give(first.url)
        asking = asyncio.create_task(heard(setup, protocols=("hutch.events", "hutch_ticket_x")))
        while not first.asked:
            await asyncio.sleep(0.01)
        setup.throne.give(second.url)
        assert await asking == ([frame(2)], 1012)
        assert first.asked[0].headers["sec-websocket-protocol"] == "hutch.events,hutch_ticket_x"
        assert second.asked == []


async def test_a_terminal_is_passed_on_in_both_directions_and_told_to_come_back(
    setup: Setup,
) -> None:
    async with a_leader(Echo()) as first, a_leader(Echo()) as second:
        setup.throne.give(first.url)
        path = "/v1/terminal?terminal=term_a&after=7"
        headers = {"authorization": "Bearer k"}
        async with setup.http.ws_connect(setup.url + path, headers=headers) as socket:
            big = bytes(range(256)) * 256
            for data in (b"\x00\xff", b"", big):
                await socket.send_bytes(data)
                assert await socket.receive_bytes() == data
            await socket.send_str('{"type": "resize"}')
            assert await socket.receive_str() == '{"type": "resize"}'
            await socket.send_str("die")
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 1012
        setup.throne.give(second.url)
        async with setup.http.ws_connect(setup.url + path, headers=headers) as socket:
            await socket.send_str("close")
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 4409
        for leader in (first, second):
            (asked,) = leader.asked
            assert asked.query == {"terminal": "term_a", "after": "7"}
            assert asked.headers["authorization"] == "Bearer k"


@pytest.mark.parametrize("code", [1000, 4401, 4404])
async def test_the_close_of_a_websocket_is_passed_on(setup: Setup, code: int) -> None:
    async with a_leader(Frames([], code, "why: because")) as leader:
        setup.throne.give(leader.url)
        async with setup.http.ws_connect(setup.url + "/v1/runs/run_1/events") as socket:
            message = await socket.receive()
            assert (message.data, message.extra) == (code, "why: because")


async def test_a_websocket_does_not_wait_for_a_leader_for_ever(setup: Setup) -> None:
    async with a_leader() as dead:
        pass
    setup.throne.give(dead.url)
    assert await heard(setup) == ([], 1012)


async def test_time_that_was_spent_waiting_for_a_run_is_not_held_against_a_request(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_module, "WAIT_S", 0.3)

    async def long_poll() -> tuple[int, str]:
        return await setup.ask("GET", "/v1/runs/run_1?wait=30")

    async with a_leader(["dies"]) as first, a_leader({"from": "second"}) as second:
        monkeypatch.setattr(first, "_stream", _dies_late)
        setup.throne.give(first.url)
        asking = asyncio.create_task(long_poll())
        while not first.asked:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        setup.throne.give(second.url)
        assert await asking == (200, '{"from": "second"}')


async def _dies_late(request: web.BaseRequest, _parts: list[Any]) -> web.StreamResponse:
    await asyncio.sleep(0.6)
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
