"""The sandboxes' network: made already, or can one be made?"""

from __future__ import annotations

import secrets
from typing import Any, Final

import aiodocker

from hutch.backends.docker_read import bridge
from hutch.backends.docker_spec import network_name
from hutch.config import Settings
from hutch.errors import HutchError
from hutch.host.findings import Finding
from hutch.images.engine import engine

_NAME: Final = "network"
_INSPECT: Final = ("see what uses the addresses: docker network ls",)


async def check(settings: Settings) -> Finding:
    """Needs an engine that answers; leaves nothing behind."""
    try:
        async with engine(settings) as docker:
            address = await _made(docker, settings)
            if address is None:
                await _try(docker)
    except HutchError as error:
        return Finding(_NAME, ok=False, detail=error.message, remedy=_INSPECT)
    if address is None:
        return Finding(_NAME, ok=True, detail="a bridge can be made")
    return Finding(_NAME, ok=True, detail=f"sandboxes reach the gateway at {address}")


async def _made(docker: aiodocker.Docker, settings: Settings) -> str | None:
    if not (settings.data_dir / "instance").exists():  # asking for it would make it
        return None
    try:
        network: dict[str, Any] = await (
            await docker.networks.get(network_name(settings.instance))
        ).show()
    except aiodocker.exceptions.DockerError as error:
        if error.status == 404:
            return None
        raise
    return str(bridge(network, settings.instance, settings.gateway_port).host)


async def _try(docker: aiodocker.Docker) -> None:
    name = f"hutch-probe-{secrets.token_hex(4)}"
    network = await docker.networks.create({"Name": name, "Driver": "bridge", "Internal": True})
    await network.delete()
