"""A run of a real CLI followed in every way, each cut and taken up again at random, over a restart
of the API in the middle.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import aiohttp

from tests.integration.driving import check_log, content
from tests.orchestrator.following import WAYS, Event
from tests.service import Service, User

CUTS = 12


def test_every_way_sees_the_same_through_cuts_and_a_restart(service: Service, user: User) -> None:
    asked = {"provider": "claude", "prompt": "[[slow:120,30]]", "wait": 0}
    run = user.client.call("POST", "/v1/runs", json=asked)
    url = f"{service.url}/v1/runs/{run['id']}"

    async def follow(http: aiohttp.ClientSession, way: str, cuts: int) -> list[Event]:
        seen: list[Event] = []
        while not (seen and seen[-1]["type"] == "run.finished"):
            most = random.randint(1, 12) if cuts else 10**6  # noqa: S311  anywhere
            cuts -= bool(cuts)
            try:
                seen += await WAYS[way](http, url, user.key, len(seen), most)
            except (aiohttp.ClientError, OSError):  # the API is being restarted
                await asyncio.sleep(0.1)
        return seen

    async def all_ways() -> list[list[Event]]:
        async with aiohttp.ClientSession() as http:
            following = [asyncio.create_task(follow(http, way, CUTS)) for way in WAYS]
            await asyncio.sleep(1)
            await asyncio.to_thread(service.restart, "api")
            return await asyncio.gather(*following)

    logs = asyncio.run(all_ways())
    whole: list[dict[str, Any]] = list(user.client.follow(run["id"]))
    check_log(whole)
    assert sum(event["type"] == "text.delta" for event in whole) >= 120
    for log in logs:
        assert content(log) == content(whole)
