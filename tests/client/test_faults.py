"""No event is lost or comes twice, and no run happens twice, whatever the network does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Iterator

import pytest

from hutch.client import (
    AsyncClient,
    Client,
    Conflict,
    NotFound,
    RateLimited,
    TimedOut,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from hutch.client import retries as retries_module
from tests.client.faulty import RUN, FaultyService, Reply, log, serving

FAULTS = 8


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries_module, "_FIRST_S", 0.001)
    monkeypatch.setattr(retries_module, "_LONGEST_S", 0.002)


@pytest.fixture
def service() -> Iterator[FaultyService]:
    with serving(FaultyService(chance(1), faults=0)) as running:
        yield running


def chance(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  no secret


def refusal(status: int, code: str, **headers: str) -> Reply:
    error = {"code": code, "message": "No.", "hint": "Do something else."}
    return status, headers, json.dumps({"error": error}).encode()


@pytest.mark.parametrize("seed", range(30))
def test_a_stream_survives(seed: int) -> None:
    service = FaultyService(chance(seed), faults=FAULTS)
    with serving(service), Client(service.url, "key") as client:
        stream = client.stream("codex", "hello")
        assert [dict(event.raw) for event in stream] == log("run_1", service.length)
        assert (stream.run_id, stream.session_id) == ("run_1", "ses_1")
        assert stream.result().text == "the end"
    assert len(service.runs) == 1


@pytest.mark.parametrize("seed", range(100, 130))
async def test_an_asynchronous_stream_survives(seed: int) -> None:
    service = FaultyService(chance(seed), faults=FAULTS)
    with serving(service):
        async with AsyncClient(service.url, "key") as client:
            stream = client.stream("codex", "hello")
            assert [dict(event.raw) async for event in stream] == log("run_1", service.length)
            assert (await stream.result()).id == "run_1"
    assert len(service.runs) == 1


@pytest.mark.parametrize("seed", range(200, 210))
def test_following_from_the_middle_survives(seed: int) -> None:
    service = FaultyService(chance(seed), faults=FAULTS)
    with serving(service), Client(service.url, "key") as client:
        seen = [event.seq for event in client.follow("run_7", after=11)]
    assert seen == list(range(12, service.length + 1))


@pytest.mark.parametrize("seed", range(10))
async def test_a_run_happens_once(seed: int) -> None:
    service = FaultyService(chance(seed), faults=FAULTS)
    with serving(service):
        async with AsyncClient(service.url, "key") as client:
            run = await client.run("codex", "hello")
        assert (run.id, run.check().text) == ("run_1", "the end")
    assert len(service.runs) == 1


def test_whoever_is_interrupted_goes_on(service: FaultyService) -> None:
    with Client(service.url, "key") as client:
        stream = client.stream("codex", "hello")
        seen: list[int] = []
        while len(seen) < service.length:
            for event in stream:
                seen.append(event.seq)
                if event.seq % 7 == 0:
                    break
    assert seen == list(range(1, service.length + 1))
    assert len(service.runs) == 1


def test_after_the_end_there_is_nothing(service: FaultyService) -> None:
    with Client(service.url, "key") as client:
        assert list(client.follow("run_1", after=service.length)) == []


def test_what_is_played_back_is_passed_over(service: FaultyService) -> None:
    events = log("run_1", 5)
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events[:3] + events).encode()
    stream: Reply = (200, {"content-type": "text/event-stream"}, body)
    service.replies["GET /v1/runs/run_1/events"] = [stream]
    with Client(service.url, "key") as client:
        assert [event.seq for event in client.follow("run_1")] == [1, 2, 3, 4, 5]
    assert len(service.asked) == 1


def test_a_stream_that_ends_before_it_begins(service: FaultyService) -> None:
    nothing: Reply = (200, {"content-type": "text/event-stream"}, b"")
    service.replies["POST /v1/runs"] = [nothing]
    with Client(service.url, "key") as client:
        assert len(list(client.stream("codex", "hello"))) == service.length
    assert [asked.path for asked in service.asked] == ["/v1/runs", "/v1/runs"]


def test_each_run_has_a_key_of_its_own(service: FaultyService) -> None:
    with Client(service.url, "key") as client:
        client.run("codex", "hello")
        client.run("codex", "hello")
        client.run("codex", "hello", idempotency_key="mine")
        client.run("codex", "hello", idempotency_key="mine")
    assert len(service.runs) == 3


def test_retry_after_is_honoured(service: FaultyService) -> None:
    service.replies["POST /v1/runs"] = [refusal(429, "queue_full", **{"retry-after": "1"})]
    with Client(service.url, "key") as client:
        began = time.monotonic()
        assert client.submit("codex", "hello").id == "run_1"
        assert time.monotonic() - began >= 1


def test_retry_after_is_bounded(service: FaultyService) -> None:
    service.replies["POST /v1/runs"] = [refusal(429, "queue_full", **{"retry-after": "3600"})]
    with Client(service.url, "key") as client, pytest.raises(RateLimited) as refused:
        client.submit("codex", "hello")
    error = refused.value
    assert (error.status, error.code, error.retry_after) == (429, "queue_full", 3600)
    assert (error.message, error.hint) == ("No.", "Do something else.")
    assert len(service.asked) == 1


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "not_found", NotFound),
        (409, "session_busy", Conflict),
        (429, "too_many_failures", RateLimited),
        (503, "exit_unavailable", Unavailable),
        (500, "internal", Unavailable),
    ],
)
def test_what_will_not_pass_is_not_repeated(
    service: FaultyService, status: int, code: str, kind: type[Exception]
) -> None:
    service.replies["GET /v1/runs/run_1"] = [refusal(status, code, **{"retry-after": "0"})]
    with Client(service.url, "key") as client, pytest.raises(kind):
        client.get_run("run_1")
    assert len(service.asked) == 1


def test_what_may_have_happened_is_not_repeated(service: FaultyService) -> None:
    gone: Reply = (502, {}, b"")
    service.replies["POST /v1/keys"] = [gone]
    service.replies["DELETE /v1/keys/key_1"] = [gone, refusal(404, "not_found")]
    with Client(service.url, "key") as client:
        with pytest.raises(Unavailable):
            client.create_key()
        client.revoke_key("key_1")  # the second try found that the first had done it
    assert [asked.method for asked in service.asked] == ["POST", "DELETE", "DELETE"]


def test_it_gives_up(service: FaultyService) -> None:
    service.faults = 10**9
    with Client(service.url, "key", retry_for_s=0.05) as client:
        with pytest.raises((Unreachable, Unavailable)):
            client.get_run("run_1")
        service.random = chance(2)
        with pytest.raises((Unreachable, Unavailable)):
            list(client.follow("run_1", after=service.length - 1))


def test_nobody_listens() -> None:
    nobody = Client("http://127.0.0.1:9", "key", retry_for_s=0)
    with nobody as client, pytest.raises(Unreachable) as refused:
        client.runs()
    assert (refused.value.code, refused.value.status) == ("unreachable", None)


async def test_an_answer_without_an_end() -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:  # never quite silent
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        async with AsyncClient(url, "key", timeout_s=0.3, retry_for_s=0) as client:
            with pytest.raises(TimedOut):
                await client.runs()
        waiting = Client(url, "key", timeout_s=0.3, retry_for_s=0)
        with waiting, pytest.raises(TimedOut):
            await asyncio.to_thread(waiting.runs)


def test_something_else_answers(service: FaultyService) -> None:
    page = (200, {"content-type": "text/html"}, b"<h1>Welcome</h1>")
    service.replies["GET /v1/sessions"] = [page]
    service.replies["GET /v1/runs/run_1/events"] = [page]
    with Client(service.url, "key") as client:
        with pytest.raises(UnexpectedAnswer):
            client.sessions()
        with pytest.raises(UnexpectedAnswer):
            list(client.follow("run_1"))


def test_a_client_for_each_user(service: FaultyService) -> None:
    with Client(service.url, "key") as client:
        client.for_user("user_7").run("codex", "hello", session_id="ses_1", model="m")
        client.with_options(timeout_s=1).get_run("../admin?x=")
    run, plain = service.asked
    assert run.headers["x-hutch-user"] == "user_7"
    assert run.headers["authorization"] == "Bearer key"
    assert (run.body["session_id"], run.body["model"]) == ("ses_1", "m")
    assert "x-hutch-user" not in plain.headers
    assert plain.path == "/v1/runs/..%2Fadmin%3Fx%3D"


def test_pages_are_one_list(service: FaultyService) -> None:
    def page(count: int, following: str | None) -> Reply:
        return 200, {}, json.dumps({"runs": [RUN] * count, "next": following}).encode()

    service.replies["GET /v1/runs"] = [page(100, "run_x"), page(30, None)]
    with Client(service.url, "key") as client:
        assert len(client.runs(limit=None)) == 130
    assert [asked.query.get("before") for asked in service.asked] == [None, "run_x"]
