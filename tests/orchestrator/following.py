"""The ways to follow a run over HTTP; each reads from a number on, up to as many as wanted."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

Event = dict[str, Any]
# Base URL, run, key, the last number seen, how many at most → the next events.
Follow = Callable[[aiohttp.ClientSession, str, str, int, int], Awaitable[list[Event]]]


async def by_sse(
    http: aiohttp.ClientSession, url: str, key: str, after: int, most: int
) -> list[Event]:
    headers = {"authorization": f"Bearer {key}", "last-event-id": str(after)}
    events: list[Event] = []
    async with http.get(f"{url}/events", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            if line.startswith(b"data: "):
                events.append(json.loads(line[6:]))
                if len(events) >= most:
                    answer.close()
                    break
    return events


async def by_websocket(
    http: aiohttp.ClientSession, url: str, key: str, after: int, most: int
) -> list[Event]:
    events: list[Event] = []
    async with http.ws_connect(
        f"{url}/events?after={after}",
        headers={"authorization": f"Bearer {key}"},
        max_msg_size=8 * 2**20,
    ) as socket:
        async for message in socket:
            assert message.type is aiohttp.WSMsgType.TEXT
            events.append(json.loads(message.data))
            if len(events) >= most:
                transport = socket.get_extra_info("socket")
                if most % 2 and transport is not None:  # with no goodbye
                    transport.shutdown(2)
                return events
        assert socket.close_code in {1000, 1006, 1012}, socket.close_code  # 1006: cut
    return events


async def by_long_poll(
    http: aiohttp.ClientSession, url: str, key: str, after: int, most: int
) -> list[Event]:
    headers = {"authorization": f"Bearer {key}", "accept": "application/json"}
    path = f"{url}/events?after={after}&wait=5"
    async with http.get(path, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        page = json.loads(await answer.text())
    events: list[Event] = page["events"][:most]
    return events


WAYS: dict[str, Follow] = {
    "sse": by_sse,
    "websocket": by_websocket,
    "long-poll": by_long_poll,
}
