"""A client of the runtime's terminals: one request that is written and read at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from hutch_runtime.frames import CONTROL, DATA, FrameReader, control, frame


class Attached:
    def __init__(self, said: asyncio.Queue[bytes], answer: aiohttp.ClientResponse) -> None:
        self._said = said
        self._answer = answer
        self._reader = FrameReader()
        self.output = bytearray()
        self.controls: list[dict[str, Any]] = []

    @property
    def ready(self) -> dict[str, Any]:
        return self.controls[0]

    @property
    def offset(self) -> int:
        """Of the first byte that has not come."""
        start: int = self.ready["offset"]
        return start + len(self.output)

    def type(self, data: bytes) -> None:
        self._said.put_nowait(frame(DATA, data))

    def say(self, kind: str, /, **fields: Any) -> None:
        self._said.put_nowait(control(kind, **fields))

    async def read(self) -> bool:
        """Some more; False if there is none."""
        data = await self._answer.content.readany()
        for kind, payload in self._reader.feed(data):
            if kind == CONTROL:
                self.controls.append(json.loads(payload))
            else:
                self.output += payload
        return bool(data)

    async def until(self, text: bytes) -> bytes:
        while text not in self.output:
            assert await self.read(), (bytes(self.output), self.controls)
        return bytes(self.output)

    async def heard(self, kind: str) -> dict[str, Any]:
        while not (found := [said for said in self.controls if said["type"] == kind]):
            assert await self.read(), (bytes(self.output)[-500:], self.controls)
        return found[-1]

    async def the_end(self) -> dict[str, Any]:
        while await self.read():
            pass
        return self.controls[-1]


class Terminals:
    def __init__(self, url: str, key: str, http: aiohttp.ClientSession) -> None:
        self._url = f"{url}/terminals"
        self._http = http
        self._headers = {"authorization": f"Bearer {key}"}

    async def open(self, name: str, *command: str, **fields: Any) -> tuple[int, Any]:
        body = {
            "terminal_id": name,
            "command": list(command) or None,
            "tty": True,
            "rows": 24,
            "columns": 80,
            "term": "xterm",
            "idle_s": 60,
            "detached_s": 60,
            **fields,
        }
        async with self._http.post(self._url, json=body, headers=self._headers) as answer:
            return answer.status, await answer.json()

    async def list(self) -> list[dict[str, Any]]:
        async with self._http.get(self._url, headers=self._headers) as answer:
            assert answer.status == 200
            found: list[dict[str, Any]] = (await answer.json())["terminals"]
            return found

    async def end(self, name: str) -> int:
        async with self._http.delete(f"{self._url}/{name}", headers=self._headers) as answer:
            return answer.status

    @contextlib.asynccontextmanager
    async def attach(self, name: str, after: int = 0) -> AsyncIterator[Attached]:
        said: asyncio.Queue[bytes] = asyncio.Queue()

        async def saying() -> AsyncIterator[bytes]:
            yield control("here")  # aiohttp sends its headers with the first of the body
            while True:
                yield await said.get()

        async with self._http.post(
            f"{self._url}/{name}/attach?after={after}", data=saying(), headers=self._headers
        ) as answer:
            assert answer.status == 200, await answer.text()
            attached = Attached(said, answer)
            await attached.heard("ready")
            yield attached
