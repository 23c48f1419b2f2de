"""A run followed by server-sent events, by WebSocket and by long-poll, over real sockets."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from hutch.accounts import tickets
from hutch.accounts.models import ApiKey
from hutch.app import Hutch
from tests.orchestrator.conftest import Api, World, new_user, serving
from tests.orchestrator.following import WAYS, Event
from tests.orchestrator.runtime import (
    ScriptedRun,
    finished,
    waits_for_cancel,
    waits_for_release,
)

CUTS = 50


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def many_words(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield run.started()
    for number in range(150):
        yield "text.delta", {"text": f"word {number} \u00e9\u2603"}
        await asyncio.sleep(0.002)
    yield "text", {"text": "all"}
    yield finished(text="all")


async def begin(api: Api, key: str, **options: Any) -> str:
    body = {"provider": "claude", "prompt": "x", "wait": 0, **options}
    status, run = await api("POST", "/v1/runs", key, json=body)
    assert (status, run["state"]) == (200, "queued")
    run_id: str = run["id"]
    return run_id


async def test_all_ways_see_the_same_however_often_they_are_cut(
    world: World, api: Api, key: str, http: aiohttp.ClientSession
) -> None:
    world.runtime.script = many_words
    run_id = await begin(api, key)
    url = f"{api.url}/v1/runs/{run_id}"

    async def follow(way: str, cuts: int) -> list[Event]:
        seen: list[Event] = []
        while not (seen and seen[-1]["type"] == "run.finished"):
            after = len(seen)
            if cuts and random.random() < 0.2:  # noqa: S311  anywhere: also once more from before
                after = random.randint(0, len(seen))  # noqa: S311
            most = random.randint(1, 6) if cuts else 10**6  # noqa: S311
            cuts -= bool(cuts)
            seen[after:] = [*await WAYS[way](http, url, key, after, most)]
        return seen

    logs = await asyncio.gather(*(follow(way, CUTS) for way in WAYS))
    after_the_end = await asyncio.gather(*(follow(way, CUTS) for way in WAYS))
    whole = await follow("sse", 0)
    assert [event["seq"] for event in whole] == list(range(1, len(whole) + 1))
    assert sum(event["type"] == "text.delta" for event in whole) == 150
    for log in (*logs, *after_the_end):
        assert log == whole


async def test_each_way_reads_what_an_earlier_process_wrote(
    world: World, http: aiohttp.ClientSession
) -> None:
    world.runtime.script = waits_for_release
    async with world.orchestrator() as first, serving(first) as api:
        user_id = await new_user(first, "someone")
        key = (await first.accounts.create_key("user", user_id)).text
        run_id = await begin(api, key)
        path = f"/v1/runs/{run_id}"
        seen = await WAYS["sse"](http, api.url + path, key, 0, 3)
        await first.runs.close()
    async with world.orchestrator() as second, serving(second) as api:
        live = [WAYS[way](http, api.url + path, key, 3, 10**6) for way in ("sse", "websocket")]
        following = asyncio.gather(*live)
        world.runtime.release.set()
        sse, websocket = await following
        assert sse[0]["seq"] == 4
        assert sse[-1]["type"] == "run.finished"
        assert websocket == sse
        for way in WAYS.values():
            assert await way(http, api.url + path, key, 0, 10**6) == [*seen, *sse]


async def test_a_websocket_begins_anywhere_and_says_why_it_ends(
    api: Api, key: str, http: aiohttp.ClientSession
) -> None:
    run_id = await begin(api, key)
    await api("GET", f"/v1/runs/{run_id}?wait=30", key)
    bearer = {"authorization": f"Bearer {key}"}

    async def end(path: str, headers: dict[str, str], **options: Any) -> tuple[int, int | None]:
        async with http.ws_connect(api.url + path, headers=headers, **options) as socket:
            texts = [message.data async for message in socket]
            return len(texts), socket.close_code

    events = f"/v1/runs/{run_id}/events"
    count, code = await end(events, bearer)
    assert (count > 3, code) == (True, 1000)
    assert await end(f"{events}?after={count - 1}", bearer) == (1, 1000)
    assert await end(f"{events}?after={count}", bearer) == (0, 1000)
    assert await end(f"{events}?after=-1", bearer) == (0, 4400)
    assert await end(events, {}) == (0, 4401)
    assert await end(events, {"authorization": "Bearer hutch_user_no"}) == (0, 4401)
    assert await end(events, {**bearer, "x-hutch-user": "user_other"}) == (0, 4403)
    assert await end("/v1/runs/run_none/events", bearer) == (0, 4404)
    assert await end(events, {}, protocols=("hutch.events", "hutch_ticket_none")) == (0, 4401)


async def test_a_websocket_is_told_that_the_service_goes_down(
    world: World, hutch: Hutch, api: Api, key: str, http: aiohttp.ClientSession
) -> None:
    world.runtime.script = waits_for_release
    run_id = await begin(api, key)
    headers = {"authorization": f"Bearer {key}"}
    async with http.ws_connect(f"{api.url}/v1/runs/{run_id}/events", headers=headers) as socket:
        while json.loads((await socket.receive()).data)["type"] != "text.delta":
            pass
        await socket.send_str("what is said is passed over")
        await hutch.runs.close()
        message = await socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1012)


async def test_a_ticket_opens_one_run_once_and_soon(
    hutch: Hutch,
    api: Api,
    key: str,
    http: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id, other = await begin(api, key), await begin(api, key)
    await api("GET", f"/v1/runs/{other}?wait=30", key)

    async def ticket(of: str, by: str = key) -> tuple[int, Any]:
        return await api("POST", "/v1/tickets", by, json={"run_id": of})

    async def opens(text: str, run: str = run_id) -> bool:
        async with http.ws_connect(
            f"{api.url}/v1/runs/{run}/events", protocols=("hutch.events", text)
        ) as socket:
            assert socket.protocol == "hutch.events"
            async for _ in socket:
                pass
            return socket.close_code == 1000

    status, made = await ticket(run_id)
    assert (status, made["run_id"]) == (201, run_id)
    assert await opens(made["ticket"])
    assert not await opens(made["ticket"])
    assert not await opens((await ticket(run_id))[1]["ticket"], other)
    monkeypatch.setattr(tickets, "LIFE_S", -1.0)
    assert not await opens((await ticket(run_id))[1]["ticket"])
    stranger = (await hutch.accounts.create_key("user", await new_user(hutch, "other"))).text
    assert (await ticket(run_id, stranger))[0] == 404
    assert (await ticket("run_none"))[0] == 404


async def test_old_tickets_of_a_user_make_room(hutch: Hutch) -> None:
    key = ApiKey("key_a", "user_a", "user", "hutch_user_", 0.0)
    first = hutch.tickets.issue("user_a", "run_a", key)
    others = hutch.tickets.issue("user_b", "run_a", key)
    for _ in range(tickets.PER_USER):
        last = hutch.tickets.issue("user_a", "run_a", key)
    assert hutch.tickets.redeem(others.text, "run_a").user_id == "user_b"
    assert hutch.tickets.redeem(last.text, "run_a").user_id == "user_a"
    with pytest.raises(Exception, match="too old"):
        hutch.tickets.redeem(first.text, "run_a")


async def test_waiting_for_a_run_has_a_limit(world: World, api: Api, key: str) -> None:
    world.runtime.script = waits_for_cancel
    run_id = await begin(api, key)
    status, run = await api("GET", f"/v1/runs/{run_id}?wait=0.2", key)
    assert (status, run["finished_at"]) == (200, None)
    waiting = asyncio.create_task(api("GET", f"/v1/runs/{run_id}?wait=60", key))
    await api("POST", f"/v1/runs/{run_id}/cancel", key)
    assert (await waiting)[1]["state"] == "cancelled"
    for bad in ("-1", "61", "nan", "x"):
        assert (await api("GET", f"/v1/runs/{run_id}?wait={bad}", key))[0] == 400
    body = {"provider": "claude", "prompt": "x", "wait": 0, "stream": True}
    assert (await api("POST", "/v1/runs", key, json=body))[0] == 400


async def test_events_by_long_poll(world: World, api: Api, key: str) -> None:
    world.runtime.script = waits_for_release
    run_id = await begin(api, key)
    json_please = {"headers": {"accept": "application/json"}}

    async def poll(after: int, wait: float) -> dict[str, Any]:
        path = f"/v1/runs/{run_id}/events?after={after}&wait={wait}"
        status, page = await api("GET", path, key, **json_please)
        assert status == 200
        assert isinstance(page, dict)
        return page

    after = 0
    while True:
        page = await poll(after, 30)
        after = page["next"]
        if page["events"][-1]["type"] == "text.delta":
            break
    assert await poll(after, 0.1) == {"events": [], "next": after, "finished": False}
    waiting = asyncio.create_task(poll(after, 30))
    world.runtime.release.set()
    rest = (await waiting)["events"]
    while rest[-1]["type"] != "run.finished":
        rest += (await poll(rest[-1]["seq"], 30))["events"]
    last = rest[-1]["seq"]
    assert await poll(last, 30) == {"events": [], "next": last, "finished": True}
    assert (await poll(last - 1, 0))["finished"] is True


async def test_server_sent_events_begin_after_a_number(api: Api, key: str) -> None:
    run_id = await begin(api, key)
    await api("GET", f"/v1/runs/{run_id}?wait=30", key)
    _, by_query = await api("GET", f"/v1/runs/{run_id}/events?after=2", key)
    headers = {"last-event-id": "2"}
    # What a browser says when it comes back counts, not its address, which stays as it was.
    _, by_header = await api("GET", f"/v1/runs/{run_id}/events?after=0", key, headers=headers)
    assert by_query == by_header
    assert by_query.startswith("id: 3\n")
    assert (await api("GET", f"/v1/runs/{run_id}/events?after=x", key))[0] == 400
