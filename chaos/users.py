"""A user's program: prompts, follows, breaks off, comes back, asks again, cancels, goes on."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp

from chaos.evidence import Asked

PROVIDERS: Final = ("claude", "codex", "gemini")
PATIENCE_S: Final = 240.0  # for one prompt, once nothing is killed any more
_SILENCE_S: Final = 40.0  # the service sends a heartbeat every 15 s
_LATER: Final = frozenset({429, 502, 503, 504, 507})
_NEW_SESSION: Final = 0.4
_CANCELS: Final = 0.12
_WALKS_AWAY: Final = 0.15  # lets go of its stream in the middle and comes back
_RESTS: Final = 0.1
_THINK_S: Final = (0.0, 1.0)
_REST_S: Final = (3.0, 12.0)  # long enough to be frozen, or put away
_ASKS_TWICE: Final = 0.25  # with the same key, after the end


class _BrokeOff(Exception):
    """No answer, or not to its end: ask again."""


class SimulatedUser:
    def __init__(
        self, user_id: str, key: str, url: str, *, seed: str, http: aiohttp.ClientSession
    ) -> None:
        self.user_id = user_id
        self.asked: list[Asked] = []
        self._headers = {"authorization": f"Bearer {key}"}
        self._url = url
        self._random = random.Random(f"{seed} {user_id}")  # noqa: S311  a schedule, not a secret
        self._http = http
        self._sessions: dict[str, str] = {}  # by provider, the one to go on in
        self._name = seed

    async def live(self, until: asyncio.Event) -> None:
        while not until.is_set():
            await self.prompt(self._random.choice(PROVIDERS))
            rests = self._random.random() < _RESTS
            await asyncio.sleep(self._random.uniform(*(_REST_S if rests else _THINK_S)))

    async def check_all_is_well(self, *, fresh: bool) -> None:
        """With each provider, in a new session or on in the last one."""
        for provider in PROVIDERS:
            await self.prompt(provider, fresh=fresh, after_the_storm=True)

    async def prompt(
        self, provider: str, *, fresh: bool | None = None, after_the_storm: bool = False
    ) -> Asked:
        """``fresh``: in a new session, or on in the last one; None: as it comes."""
        mark = f"mark-{self._name}-{len(self.asked)}"
        slow = "" if after_the_storm else self._slow()
        if fresh is None:
            fresh = self._random.random() < _NEW_SESSION
        asked = Asked(
            mark,
            self.user_id,
            provider,
            f"{mark} {slow}".strip(),
            None if fresh else self._sessions.get(provider),
            after_the_storm=after_the_storm,
        )
        self.asked.append(asked)
        calm = after_the_storm
        cancel = not calm and self._random.random() < _CANCELS
        canceller = asyncio.create_task(self._cancel_soon(asked)) if cancel else None
        walks_at = self._random.randint(1, 8) if self._random.random() < _WALKS_AWAY else None
        try:
            await self._to_the_end(asked, walks_at)
            if asked.run_ids and self._random.random() < _ASKS_TWICE:
                await self._ask_again(asked)
        except asyncio.CancelledError:
            asked.gave_up = True
            raise
        finally:
            if canceller is not None:
                canceller.cancel()
                await asyncio.gather(canceller, return_exceptions=True)
        self._remember(asked)
        return asked

    def _slow(self) -> str:
        tokens = self._random.choice((0, 5, 20, 60))
        return f"[[slow:{tokens},{self._random.choice((20, 100))}]]" if tokens else ""

    def _remember(self, asked: Asked) -> None:
        if asked.error in {"session_lost", "session_not_found"}:
            self._sessions.pop(asked.provider, None)
        elif asked.session_seen is not None and asked.state == "succeeded":
            self._sessions[asked.provider] = asked.session_seen

    async def _to_the_end(self, asked: Asked, walks_at: int | None) -> None:
        while not _over(asked):
            try:
                await self._follow(asked, walks_at)
                walks_at = None
                await self._look(asked)
            except (_BrokeOff, aiohttp.ClientError, TimeoutError, OSError):
                asked.breaks += 1
                await asyncio.sleep(self._random.uniform(0.1, 0.8))

    async def _follow(self, asked: Asked, walks_at: int | None) -> None:
        """From the start, by the same request again, or on from the last event seen."""
        if _read_to_the_end(asked):
            return
        async with self._open(asked) as response:
            await self._check(asked, response)
            if asked.refused is not None:
                return
            if "x-hutch-run" in response.headers:
                asked.run_ids.append(response.headers["x-hutch-run"])
                asked.session_seen = response.headers["x-hutch-session"]
            async for event in _events(response):
                asked.events.append((event["seq"], event["type"]))
                if event["type"] == "run.finished":
                    return
                if walks_at is not None and len(asked.events) >= walks_at:
                    return
        raise _BrokeOff  # without the last event: the service went down

    def _open(self, asked: Asked) -> Any:
        if asked.run_ids:
            last = asked.events[-1][0] if asked.events else 0
            headers = {**self._headers, "last-event-id": str(last)}
            return self._call("GET", f"/v1/runs/{asked.run_ids[0]}/events", headers=headers)
        return self._post(asked, stream=True)

    def _post(self, asked: Asked, *, stream: bool) -> Any:
        body: dict[str, Any] = {"provider": asked.provider, "prompt": asked.prompt}
        if asked.session_id is not None:
            body["session_id"] = asked.session_id
        headers = {**self._headers, "idempotency-key": asked.mark}
        return self._call("POST", "/v1/runs", headers=headers, json={**body, "stream": stream})

    def _call(self, method: str, path: str, **options: Any) -> Any:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_SILENCE_S)
        return self._http.request(method, self._url + path, timeout=timeout, **options)

    async def _check(self, asked: Asked, response: aiohttp.ClientResponse) -> None:
        if response.status == 200:
            return
        if response.status in _LATER:
            raise _BrokeOff
        asked.refused = f"{response.status} {(await response.text())[:200]}"

    async def _look(self, asked: Asked) -> None:
        """What the API says of the run once its stream has ended."""
        if asked.refused is not None:
            return
        path = f"/v1/runs/{asked.run_ids[0]}"
        async with self._call("GET", path, headers=self._headers) as response:
            await self._check(asked, response)
            if asked.refused is None:
                run = await response.json()
                if run["state"] in {"succeeded", "failed", "cancelled"}:
                    asked.state = run["state"]
                    asked.error = (run["error"] or {}).get("code")
                    asked.session_seen = run["session_id"]
                elif _read_to_the_end(asked):
                    asked.refused = f"the stream ended, and the run is {run['state']}"
                else:
                    raise _BrokeOff

    async def _ask_again(self, asked: Asked) -> None:
        while True:
            try:
                async with self._post(asked, stream=False) as response:
                    await self._check(asked, response)
                    if asked.refused is None:
                        asked.run_ids.append((await response.json())["id"])
                    return
            except (_BrokeOff, aiohttp.ClientError, TimeoutError, OSError):
                asked.breaks += 1
                await asyncio.sleep(0.5)

    async def _cancel_soon(self, asked: Asked) -> None:
        await asyncio.sleep(self._random.uniform(0.05, 2.0))
        while True:
            if asked.run_ids:
                asked.cancelled = True
                path = f"/v1/runs/{asked.run_ids[0]}/cancel"
                try:
                    async with self._call("POST", path, headers=self._headers) as response:
                        if response.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError, OSError):
                    pass
            await asyncio.sleep(0.2)


def _over(asked: Asked) -> bool:
    """The stream was read to its end, and the API told how; or there is nothing to wait for."""
    return asked.refused is not None or (asked.state is not None and _read_to_the_end(asked))


def _read_to_the_end(asked: Asked) -> bool:
    return bool(asked.events) and asked.events[-1][1] == "run.finished"


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield json.loads(line[5:])
