"""The firewall of one installation, by what the engine says of its network and containers."""

from __future__ import annotations

import asyncio
import json
from ipaddress import IPv4Address
from typing import Any, Final

import structlog
from aiodocker import Docker
from aiodocker.exceptions import DockerError

from hutch.backends import docker_read
from hutch.backends.base import LABEL_INCARNATION, LABEL_INSTANCE, FirewallLook
from hutch.backends.docker_spec import network_name
from hutch.backends.firewall import Firewall
from hutch.errors import BackendError

_log = structlog.get_logger()

_GONE: Final = 404
_ENDING_LOOKS: Final = 20
_ENDING_LOOK_S: Final = 0.1  # so two seconds in all


class EngineFirewall:
    """Each raises what ``aiodocker`` raises, and ``BackendError``."""

    def __init__(self, docker: Docker, *, instance: str, gateway_port: int) -> None:
        self._docker = docker
        self._instance = instance
        self._gateway_port = gateway_port
        self._firewall = Firewall()

    async def put_up(self) -> str:
        """Around the network, which has to be there. "" or why it could not be."""
        network = await (await self._docker.networks.get(network_name(self._instance))).show()
        await self._firewall.put_up(docker_read.bridge(network, self._instance, self._gateway_port))
        return self._firewall.warning

    async def let_in(self, handle: str) -> None:
        """A container that was just started; one that has ended since needs no place."""
        if not self._firewall.prepared:
            await self.put_up()
        plugged = await self._plugged_in(handle)
        if plugged is None:
            return
        try:
            await self._firewall.let_in(*plugged)
        except BackendError:
            # Its process is gone before the engine says so.
            for _ in range(_ENDING_LOOKS):
                if await self._plugged_in(handle) != plugged:
                    return
                await asyncio.sleep(_ENDING_LOOK_S)
            raise

    async def look(self) -> FirewallLook:
        if not self._firewall.prepared:
            await self.put_up()
        try:
            restored = await self._firewall.hold()
        except BackendError:
            return FirewallLook(restored=False, warning=self._firewall.warning)
        if self._firewall.up:
            await self._let_in_all()
        return FirewallLook(restored=restored, warning=self._firewall.warning)

    async def take_down(self) -> None:
        """With the network, never before. Raises ``BackendError``."""
        name = network_name(self._instance)
        try:
            await self._docker.networks.get(name)
        except DockerError as error:
            if error.status != _GONE:
                raise
            await self._firewall.take_down(name)
        else:
            raise BackendError(f"The network {name} is there; so its firewall stays.")

    async def _plugged_in(self, handle: str) -> tuple[int, str, str] | None:
        try:
            data = await self._docker.containers.container(handle).show()
        except DockerError as error:
            if error.status == _GONE:
                return None
            raise
        return docker_read.plugged_in(data, self._instance)

    async def _let_in_all(self) -> None:
        """Those of a process that died between start and that, or that were started by hand."""
        labels = [f"{LABEL_INSTANCE}={self._instance}", LABEL_INCARNATION]
        for container in await self._docker.containers.list(filters=json.dumps({"label": labels})):
            listed: dict[str, Any] = container._container  # noqa: SLF001  (has no other name)
            address = docker_read.listed(listed).address
            if address is None or IPv4Address(address) in self._firewall.addresses:
                continue
            try:
                await self.let_in(container.id)
            except (BackendError, DockerError) as error:  # it is ending; else the next look tries
                _log.warning(
                    "firewall.not_let_in", container=container.id[:12], reason=error.message
                )
