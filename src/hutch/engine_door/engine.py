"""The engine, as the door asks it: bounded in time and size, in one version of its API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from aiodocker import Docker
from aiodocker.exceptions import DockerError

_CALL_S: Final = 90  # longer than the backend waits, so that it is the one that gives up
_CONNECT_S: Final = 5
_ANSWER_MAX: Final = 16 << 20  # bytes; a listing of a thousand containers has two million


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes


class Engine:
    """Each call raises ``DockerError`` with the engine's status and words, or 502 if it has none.
    ``docker`` is its owner's to close.
    """

    def __init__(self, docker: Docker) -> None:
        self._docker = docker

    async def api_version(self) -> str:
        if self._docker.api_version == "auto":
            await self.version()
        return str(self._docker.api_version)

    async def version(self) -> dict[str, Any]:
        """Asked each time: an engine that was updated under us speaks another one."""
        said: dict[str, Any] = json.loads((await self.call("GET", "version", bare=True)).body)
        self._docker.api_version = f"v{said['ApiVersion']}"
        return said

    async def read(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        return json.loads((await self.call("GET", path, params)).body)

    async def call(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        body: bytes | None = None,
        bare: bool = False,
        grace_s: float = 0,
    ) -> Answer:
        """``bare``: without the API's version in the path. ``grace_s``: beyond the usual limit."""
        try:
            async with (
                asyncio.timeout(_CALL_S + grace_s),
                self._docker._query(  # noqa: SLF001  (the library has no name for just asking)
                    path,
                    method,
                    params=params,
                    data=body,
                    timeout=_NO_LIMIT,
                    versioned_api=not bare,
                ) as said,
                said,
            ):
                received = bytearray()
                async for chunk in said.content.iter_any():
                    received += chunk
                    if len(received) > _ANSWER_MAX:
                        raise DockerError(502, "the engine's answer is too long")
                return Answer(said.status, bytes(received))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise DockerError(
                502, f"the engine does not answer ({type(error).__name__})"
            ) from error

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """What it says, piece by piece, for as long as it says something."""
        async with (
            self._docker._query(path, params=params, timeout=_NO_LIMIT) as said,  # noqa: SLF001  (as above)
            said,
        ):
            yield said.content.iter_any()


# Ours is around the call; only a connection has one of its own.
_NO_LIMIT: Final = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
