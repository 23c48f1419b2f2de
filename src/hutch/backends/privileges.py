"""What the engine has no call for, and an ordinary user may not do: write cgroups, end processes,
change the host's packet filter.

The API does it itself where it speaks to the engine itself. Behind the engine's door it asks the
door, in calls that look like the engine's own (docs/decisions/0023).
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Sequence
from typing import Any, Final, Protocol

import aiohttp
import structlog
from aiodocker import Docker

from hutch.backends import docker_read
from hutch.backends.base import FirewallLook
from hutch.backends.engine_firewall import EngineFirewall
from hutch.backends.reclaim import reclaim
from hutch.backends.strays import container_processes, kill_strays
from hutch.config import Settings

# Paths at the door, beside those of the engine.
RECLAIM: Final = "hutch/containers/{handle}/reclaim"
STRAYS: Final = "hutch/containers/{handle}/processes"
EXECUTE: Final = "hutch/containers/{handle}/execute"
PROCESSES: Final = "hutch/processes"
LET_IN: Final = "hutch/containers/{handle}/let-in"
FIREWALL: Final = "hutch/firewall"  # PUT: put it up; POST: look after it; DELETE: take it down

EXECUTE_S: Final = 30  # on top of what the program itself may take
# Whoever asks has a limit around it.
_AS_LONG_AS_ASKED: Final = aiohttp.ClientTimeout(total=None, sock_connect=5)

_log = structlog.get_logger()


class Privileges(Protocol):
    """Each raises what ``aiodocker`` raises, or ``BackendError``."""

    async def reclaim(self, handle: str) -> int:
        """Bytes of a frozen container's memory that went to swap."""
        ...

    async def kill_strays(self, handle: str) -> list[int]:
        """Processes of gVisor that a container left behind which is gone; their numbers."""
        ...

    async def processes(self) -> set[str]:
        """Containers that gVisor has processes of, whoever's they are."""
        ...

    async def put_up_firewall(self) -> str:
        """Around the network, which has to be there. "" or a warning with the exact remedy."""
        ...

    async def let_in(self, handle: str) -> None:
        """A container that was just started: to the gateway, with its own address."""
        ...

    async def look_at_firewall(self) -> FirewallLook:
        """Put back what is missing, and let in whoever was not."""
        ...

    async def take_down_firewall(self) -> None:
        """Once the network is gone."""
        ...

    async def execute(
        self, handle: str, argv: Sequence[str], *, within_s: float, output_max: int
    ) -> bytes:
        """As ``Backend.execute``; the door does it in containers alone whose walls are tried."""
        ...


class OwnPrivileges:
    """Of this process: root's, or nothing happens."""

    def __init__(self, docker: Docker, settings: Settings) -> None:
        self._docker = docker
        self._firewall = EngineFirewall(
            docker, instance=settings.instance, gateway_port=settings.gateway_port
        )

    async def reclaim(self, handle: str) -> int:
        pid = docker_read.pid(await self._docker.containers.container(handle).show())
        return await asyncio.to_thread(reclaim, pid) if pid else 0

    async def kill_strays(self, handle: str) -> list[int]:
        return await asyncio.to_thread(kill_strays, handle)

    async def processes(self) -> set[str]:
        return set(await asyncio.to_thread(container_processes))

    async def put_up_firewall(self) -> str:
        return await self._firewall.put_up()

    async def let_in(self, handle: str) -> None:
        await self._firewall.let_in(handle)

    async def look_at_firewall(self) -> FirewallLook:
        return await self._firewall.look()

    async def take_down_firewall(self) -> None:
        await self._firewall.take_down()

    async def execute(
        self, handle: str, argv: Sequence[str], *, within_s: float, output_max: int
    ) -> bytes:
        container = self._docker.containers.container(handle)
        program = await container.exec(argv, stderr=False)
        output = bytearray()
        async with program.start(timeout=float(within_s + EXECUTE_S)) as stream:
            try:
                async with asyncio.timeout(within_s):
                    while len(output) < output_max and (piece := await stream.read_out()):
                        output += piece.data
            except TimeoutError:
                _log.warning("sandbox.program_slow", container=handle[:12], within_s=within_s)
        return bytes(output[:output_max])


class DoorPrivileges:
    """Of the engine's door, at the other end of ``docker``."""

    def __init__(self, docker: Docker) -> None:
        self._docker = docker

    async def reclaim(self, handle: str) -> int:
        return int((await self._ask("POST", RECLAIM.format(handle=handle)))["bytes"])

    async def kill_strays(self, handle: str) -> list[int]:
        return [
            int(pid) for pid in (await self._ask("DELETE", STRAYS.format(handle=handle)))["pids"]
        ]

    async def processes(self) -> set[str]:
        return set((await self._ask("GET", PROCESSES))["containers"])

    async def put_up_firewall(self) -> str:
        return str((await self._ask("PUT", FIREWALL))["warning"])

    async def let_in(self, handle: str) -> None:
        await self._ask("POST", LET_IN.format(handle=handle))

    async def look_at_firewall(self) -> FirewallLook:
        said = await self._ask("POST", FIREWALL)
        return FirewallLook(restored=bool(said["restored"]), warning=str(said["warning"]))

    async def take_down_firewall(self) -> None:
        await self._ask("DELETE", FIREWALL)

    async def execute(
        self, handle: str, argv: Sequence[str], *, within_s: float, output_max: int
    ) -> bytes:
        wanted = {
            "argv": list(argv),
            "within_ms": math.ceil(within_s * 1000),
            "output_max": output_max,
        }
        said = await self._ask("POST", EXECUTE.format(handle=handle), json.dumps(wanted).encode())
        return base64.b64decode(said["output"])

    async def _ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = await self._docker._query_json(  # noqa: SLF001  (it has no name for these)
            path, method, data=body, timeout=_AS_LONG_AS_ASKED, versioned_api=False
        )
        return answer
