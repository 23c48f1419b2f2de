"""The orchestrator's end of the gateway's control socket."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp

from hutch.errors import Unavailable
from hutch.gateway.base import ExitTraffic, Failure, GatewayHealth
from hutch.gateway.table import Entry
from hutch.gateway.wire import table_json

_CALL_S: Final = 10


class GatewayClient:
    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._http: aiohttp.ClientSession | None = None

    async def put_table(self, entries: Iterable[Entry]) -> None:
        await self._call("PUT", "/table", json=table_json(entries))

    async def put(self, *entries: Entry) -> None:
        await self._call("PATCH", "/table", json=table_json(entries))

    async def remove(self, sandbox_id: str, incarnation: str) -> None:
        await self._call("DELETE", f"/table/{sandbox_id}", params={"incarnation": incarnation})

    async def health(self) -> GatewayHealth:
        said = await self._call("GET", "/health")
        return GatewayHealth(str(said["boot_id"]), int(said["entries"]), bool(said["synced"]))

    async def exits(self) -> Mapping[str, ExitTraffic]:
        said = await self._call("GET", "/exits")
        return {
            name: ExitTraffic(int(one["requests"]), int(one["failures"]))
            for name, one in said.items()
        }

    async def failure(self, sandbox_id: str, incarnation: str, since: float) -> Failure | None:
        asked = {"incarnation": incarnation, "since": repr(since)}
        said = await self._call("GET", f"/failures/{sandbox_id}", params=asked)
        if not said:
            return None
        return Failure(str(said["code"]), str(said["message"]), float(said["at"]))

    async def metrics(self) -> str:
        return str((await self._call("GET", "/metrics"))["text"])

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        if self._http is None:  # made at first use: it has to be inside the event loop
            self._http = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(self._socket_path)),
                timeout=aiohttp.ClientTimeout(total=_CALL_S),
            )
        try:
            async with self._http.request(method, f"http://gateway{path}", **options) as response:
                if response.status == 204:
                    return {}
                if response.status == 200:
                    if response.content_type == "text/plain":
                        return {"text": await response.text()}
                    answer: dict[str, Any] = await response.json()
                    return answer
                words = (await response.text())[:300]
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(
                "The gateway does not answer.",
                hint="It is a process of its own; `hutch doctor` tells whether it runs.",
            ) from error
        raise Unavailable(f"The gateway refused its table ({response.status}): {words}")
