"""Between sandboxes and the host: can a firewall be put up, and is it as it should be?"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, Final

import aiodocker

from hutch.backends import nft, ruleset
from hutch.backends.docker_read import bridge, plugged_in
from hutch.backends.docker_spec import network_name
from hutch.backends.firewall import plug_in
from hutch.backends.ruleset import Bridge
from hutch.config import Settings
from hutch.errors import BackendError, HutchError
from hutch.host import packages
from hutch.host.findings import Finding
from hutch.images.engine import engine

NAME: Final = "firewall"
PACKAGES: Final = ("nftables",)
_PROBE_S: Final = 30.0
_LABEL: Final = "hutch.probe"
# Exit status, a sum: 1, the gateway's port answered, if only by a refusal; 2, another one did.
_PROBE: Final = """
import socket, sys
host, result = sys.argv[1], 0
for bit, port, limit in ((1, int(sys.argv[2]), 5), (2, int(sys.argv[3]), 1)):
    try:
        socket.create_connection((host, port), limit).close()
        result |= bit
    except ConnectionRefusedError:
        result |= bit
    except OSError:
        pass
sys.exit(result)
"""
_GATEWAY: Final = 1
_OTHER: Final = 2


async def can_be_put_up() -> Finding:
    try:
        await nft.tables()
    except BackendError as error:
        missing = packages.which("nft") is None
        return Finding(
            NAME,
            ok=False,
            detail=f"sandboxes reach what this host listens on: {error.message}",
            needed=False,
            remedy=packages.install_command(PACKAGES)
            if missing
            else ("run `hutch serve`, or the engine's door, as root",),
            packages=PACKAGES if missing else (),
        )
    return Finding(NAME, ok=True, detail="can be put up")


async def check(settings: Settings) -> Finding:
    """With an engine and an image: tried from inside, in a container that is removed again."""
    finding = await can_be_put_up()
    if not finding.ok or not (settings.data_dir / "instance").exists():
        return finding
    try:
        async with engine(settings) as docker:
            try:
                network = await (await docker.networks.get(network_name(settings.instance))).show()
            except aiodocker.exceptions.DockerError as error:
                if error.status == 404:
                    return finding  # it comes with the network
                raise
            here = bridge(network, settings.instance, settings.gateway_port)
            wrong, remedy = await _try(docker, settings, here)
    except HutchError as error:
        wrong, remedy = error.message, (error.hint,) if error.hint else ()
    if wrong:
        return Finding(NAME, ok=False, detail=wrong, remedy=remedy)
    detail = f"of this host, sandboxes reach {here.host} port {here.gateway_port} alone"
    return Finding(NAME, ok=True, detail=detail)


async def _try(
    docker: aiodocker.Docker, settings: Settings, here: Bridge
) -> tuple[str, tuple[str, ...]]:
    """What is wrong, and what to type; both empty if nothing is."""
    if await nft.table("inet", here.name) is None or await nft.table("bridge", here.name) is None:
        again = "`hutch serve` has it put back within 10 seconds; does it run?"
        return f"its tables {here.name} are gone: sandboxes reach what this host listens on", (
            again,
        )
    with socket.create_server((str(here.host), 0)) as other:
        before = await nft.counters(here.name)
        seen = await _seen_from_inside(docker, settings, here, other.getsockname()[1])
        after = await nft.counters(here.name)
    if seen & _OTHER:
        return "sandboxes reach other ports of this host than the gateway's", (
            "hutch down",
            "hutch up",
        )

    def more(counter: str) -> bool:
        return after.get(counter, 0) > before.get(counter, 0)

    what = f"TCP to port {here.gateway_port} on {here.name}"
    if not more(ruleset.ASKED):
        return f"another filter of this host drops all of {here.name}, before any table of ours", ()
    if not more(ruleset.LET_IN):
        return (
            f"another firewall of this host drops {what}: sandboxes reach no gateway",
            _remedies(here),
        )
    if not seen & _GATEWAY:
        return f"another firewall of this host drops the answers to {what}", ("nft list ruleset",)
    return "", ()


def _remedies(here: Bridge) -> tuple[str, ...]:
    port = here.gateway_port
    if packages.which("ufw"):
        command = f"ufw allow in on {here.name} to any port {port} proto tcp"
    elif packages.which("firewall-cmd"):
        command = f"firewall-cmd --permanent --zone=trusted --add-interface={here.name}"
        return packages.as_root(command), packages.as_root("firewall-cmd --reload")
    else:
        command = f"iptables -I INPUT -i {here.name} -p tcp --dport {port} -j ACCEPT"
    return (packages.as_root(command),)


async def _seen_from_inside(
    docker: aiodocker.Docker, settings: Settings, here: Bridge, other: int
) -> int:
    argv = ["python3", "-c", _PROBE, str(here.host), str(here.gateway_port), str(other)]
    container = await docker.containers.create(
        {
            "Image": settings.image,
            "Entrypoint": argv,
            "Labels": {_LABEL: "1"},
            "HostConfig": {"NetworkMode": here.name, "CapDrop": ["ALL"]},
        }
    )
    try:
        async with asyncio.timeout(_PROBE_S):
            await container.start()
            data: dict[str, Any] = await container.show()
            plugged = plugged_in(data, settings.instance)
            if plugged is not None:
                await plug_in(here, *plugged)
            return int((await container.wait())["StatusCode"])
    except TimeoutError:
        raise BackendError(f"A container did not end within {_PROBE_S:.0f} seconds.") from None
    finally:
        with contextlib.suppress(aiodocker.exceptions.DockerError):
            await container.delete(force=True)
