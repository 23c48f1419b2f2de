"""Sandboxes as Docker containers, under gVisor where the host has it."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import aiohttp
import structlog
from aiodocker import Docker
from aiodocker.containers import DockerContainer
from aiodocker.events import DockerEvents
from aiodocker.exceptions import DockerError

from hutch.backends import docker_read
from hutch.backends.base import (
    LABEL_IMAGE,
    LABEL_INCARNATION,
    LABEL_INSTANCE,
    BackendEvent,
    Capabilities,
    FirewallLook,
    Image,
    Isolation,
    Observed,
    SandboxSpec,
    Stats,
)
from hutch.backends.docker_spec import (
    RUNTIMES,
    chosen_isolation,
    container_config,
    name_of,
    network_config,
    network_name,
)
from hutch.backends.privileges import EXECUTE_S, DoorPrivileges, OwnPrivileges, Privileges
from hutch.config import Settings
from hutch.errors import BackendError, HutchError, ImageMissing

_log = structlog.get_logger()

_CALL_S: Final = 30  # an engine under load answers in seconds; one that hangs, never
_START_S: Final = 60  # twenty gVisor containers at once on two cores
_CONNECT_S: Final = 5
_APPEAR_S: Final = 5  # the engine takes a container's name a moment before it shows the container
_POLL_S: Final = 0.05
_NETWORK_LOOKS: Final = 40
_NETWORK_LOOK_S: Final = 0.05  # so two seconds in all
_TEXT_MAX: Final = 300  # characters of the engine's own words that are passed on
_REMOVALS: Final = 8  # at once, in cleanup
_OUT_OF_MEMORY_KEPT: Final = 256  # the end of each is looked at within seconds

_REMEDY: Final = "`make up` installs and registers it; `hutch doctor` tells what is missing."


class DockerBackend:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._instance = settings.instance
        self._client: Docker | None = None
        self._isolation: Isolation | None = None
        self._kept_privileges: Privileges | None = None
        self._firewall_warning = ""
        # Incarnations. The engine may hear of it after it has written down the end without it.
        self._out_of_memory: deque[str] = deque(maxlen=_OUT_OF_MEMORY_KEPT)

    async def prepare(self) -> str:
        name = network_name(self._instance)
        network = await self._network()
        if network is None:
            try:
                async with _call("make the sandboxes' network"):
                    await self._docker.networks.create(
                        network_config(self._instance, self._settings.subnet)
                    )
            except BackendError:
                # Another process may have been first; the engine refuses a second network with the
                # same bridge a moment before it shows the first.
                network = await self._network_soon()
                if network is None:
                    raise
            else:
                network = await self._network()
        if network is None:
            raise BackendError(f"The Docker network {name} was removed by somebody else.")
        bridge = docker_read.bridge(network, self._instance, self._settings.gateway_port)
        async with _call("put up the firewall"):
            self._firewall_warning = await self._privileges.put_up_firewall()
        return str(bridge.host)

    async def keep_firewall(self) -> FirewallLook:
        async with _call("look after the firewall"):
            look = await self._privileges.look_at_firewall()
        self._firewall_warning = look.warning
        return look

    async def capabilities(self) -> Capabilities:
        async with _call("read the engine's description"):
            info = await self._docker.system.info()
        installed = RUNTIMES["gvisor"] in (info.get("Runtimes") or {})
        wanted = self._settings.isolation
        if wanted == "gvisor" and not installed:
            raise BackendError(
                "Isolation by gVisor is asked for, but the engine has no runtime `runsc`.",
                hint=_REMEDY,
            )
        self._isolation = chosen_isolation(wanted, info.get("Runtimes") or {})
        warning = ""
        if self._isolation == "runc":
            reason = "it is switched off" if installed else "the engine has no runtime `runsc`"
            warning = (
                f"Sandboxes run WITHOUT gVisor ({reason}): a hole in the host's kernel is a way "
                "out of a sandbox. "
                + ("Remove HUTCH_ISOLATION=runc to use it." if installed else _REMEDY)
            )
        return Capabilities(
            isolation=self._isolation,
            freeze=True,
            own_address=True,
            warning=warning,
            engine=docker_read.described(info),
            firewall_warning=self._firewall_warning,
        )

    async def create(self, spec: SandboxSpec) -> Observed:
        isolation = self._isolation or (await self.capabilities()).isolation
        name = name_of(spec.instance, spec.incarnation)
        async with _call("create a sandbox"):
            try:
                container = await self._docker.containers.create(
                    container_config(spec, isolation), name=name
                )
            except DockerError as error:
                if error.status == 404 and "image" in error.message.lower():
                    raise ImageMissing(
                        f"The sandbox image {spec.image} is not there.",
                        hint="Build it with `hutch image build`.",
                    ) from error
                if error.status != 409:
                    raise
                container = self._docker.containers.container(name)  # an earlier call made it
        try:
            async with asyncio.timeout(_APPEAR_S):
                while (observed := await self.inspect(container.id)) is None:  # noqa: ASYNC110  (nothing to wait on)
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise BackendError(f"The container {name} is being removed, or is not ours.") from None
        return observed

    async def start(self, handle: str) -> Observed:
        async with _call("start a sandbox", limit_s=_START_S):
            await self._container(handle).start()
        async with _call("let a sandbox reach the gateway"):
            await self._privileges.let_in(handle)
        return await self._there(handle)

    async def stop(self, handle: str, *, grace_s: float = 5) -> None:
        await self._thaw(await self.inspect(handle))
        async with _call("stop a sandbox", limit_s=grace_s + _CALL_S):
            try:
                await self._container(handle).stop(t=math.ceil(grace_s))
            except DockerError as error:
                if error.status != 404:
                    raise

    async def freeze(self, handle: str) -> None:
        if (await self._there(handle)).state != "frozen":
            async with _call("freeze a sandbox"):
                await self._container(handle).pause()

    async def unfreeze(self, handle: str) -> None:
        async with _call("unfreeze a sandbox"):
            try:
                await self._container(handle).unpause()
            except DockerError:
                if (await self._there(handle)).state != "running":
                    raise

    async def reclaim(self, handle: str) -> int:
        async with _call("take back a sandbox's memory"):
            return await self._privileges.reclaim(handle)

    async def destroy(self, handle: str) -> None:
        observed = await self.inspect(handle)
        await self._thaw(observed)
        async with _call("remove a sandbox"):
            try:
                await self._container(handle).delete(force=True, v=True)
            except DockerError as error:
                if error.status == 409:  # somebody else's removal is under way
                    await self._until_gone(handle)
                elif error.status != 404:
                    raise
        async with _call("end what a sandbox left behind"):
            strays = await self._privileges.kill_strays(handle)
        if strays:
            _log.warning("strays.killed", container=handle[:12], pids=strays)

    async def list(self) -> list[Observed]:
        async with _call("list sandboxes"):
            containers = await self._docker.containers.list(all=True, filters=self._own())
        found = []
        for container in containers:
            observed = docker_read.listed(container._container)  # noqa: SLF001  (has no other name)
            if observed.state == "exited":  # the list has no exit code
                detailed = await self.inspect(observed.handle)
                if detailed is None:
                    continue
                observed = detailed
            found.append(observed)
        return found

    async def inspect(self, handle: str) -> Observed | None:
        async with _call("inspect a sandbox"):
            try:
                data = await self._container(handle).show()
            except DockerError as error:
                if error.status == 404:
                    return None
                raise
        observed = docker_read.inspected(data, self._instance)
        if observed and observed.exit_code and observed.incarnation in self._out_of_memory:
            return replace(observed, oom_killed=True)
        return observed

    async def processes(self) -> set[str]:
        async with _call("look for processes of sandboxes"):
            return await self._privileges.processes()

    async def stats(self, handle: str) -> Stats:
        async with _call("read a sandbox's usage"):
            # Without one-shot the engine takes a second sample a second later.
            data = await self._docker._query_json(  # noqa: SLF001  (the library cannot ask for it)
                f"containers/{handle}/stats", params={"stream": "0", "one-shot": "1"}
            )
        return docker_read.stats(data)

    async def execute(
        self, handle: str, argv: Sequence[str], *, within_s: float, output_max: int
    ) -> bytes:
        async with _call("run a program in a sandbox", limit_s=within_s + 2 * EXECUTE_S):
            return await self._privileges.execute(
                handle, argv, within_s=within_s, output_max=output_max
            )

    async def image(self, name: str) -> Image | None:
        async with _call("look for an image"):
            try:
                return docker_read.image(await self._docker.images.inspect(name))
            except DockerError as error:
                if error.status == 404:
                    return None
                raise

    async def images(self) -> Sequence[Image]:
        async with _call("list images"):
            found = await self._docker.images.list(filters={"label": [f"{LABEL_IMAGE}=1"]})
        return [docker_read.listed_image(data) for data in found]

    async def remove_image(self, image: Image) -> bool:
        # Name by name: the engine removes an image of several names by force alone, and force would
        # take it from under a container that does not run at the moment.
        for name in image.names or (image.id,):
            async with _call("remove an image"):
                try:
                    await self._docker.images.delete(name)
                except DockerError as error:
                    if error.status == 409:
                        return False
                    if error.status != 404:
                        raise
        return True

    def watch(self) -> AsyncIterator[BackendEvent]:
        return self._watch(since=time.time())

    async def _watch(self, *, since: float) -> AsyncIterator[BackendEvent]:
        # Not the client's own `events`: that one serves a single filter, and stays dead once the
        # connection has broken.
        events: Any = DockerEvents(self._docker)  # type: ignore[no-untyped-call]
        filters = {
            "type": ["container"],
            "event": list(docker_read.EVENT_KINDS),
            "label": [f"{LABEL_INSTANCE}={self._instance}"],
        }
        messages = events.subscribe(filters=json.dumps(filters), since=f"{since:.9f}")
        try:
            while (message := await messages.get()) is not None:
                event = docker_read.event(message)
                if event is not None:
                    if event.kind == "oom":
                        self._out_of_memory.append(event.incarnation)
                    yield event
        finally:
            try:
                await events.stop()
            except (DockerError, aiohttp.ClientError, TimeoutError) as error:
                raise BackendError("The engine's events broke off.") from error

    async def cleanup(self) -> None:
        gate = asyncio.Semaphore(_REMOVALS)

        async def remove(handle: str) -> None:
            async with gate:
                await self.destroy(handle)

        async with asyncio.TaskGroup() as group:
            for observed in await self.list():
                group.create_task(remove(observed.handle))
        async with _call("remove the sandboxes' network"):
            for network in await self._docker.networks.list(
                filters={"label": f"{LABEL_INSTANCE}={self._instance}"}
            ):
                try:
                    await (await self._docker.networks.get(network["Id"])).delete()
                except DockerError as error:
                    if error.status != 404:
                        raise
            await self._privileges.take_down_firewall()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client, self._kept_privileges = None, None

    @property
    def _privileges(self) -> Privileges:
        if self._kept_privileges is None:
            self._kept_privileges = (
                DoorPrivileges(self._docker)
                if self._settings.engine_door
                else OwnPrivileges(self._docker, self._settings)
            )
        return self._kept_privileges

    @property
    def _docker(self) -> Docker:
        if self._client is None:  # made at first use: it has to be inside the event loop
            door = self._settings.engine_door
            self._client = Docker(
                url=f"unix://{door}" if door else self._settings.docker_host,
                timeout=aiohttp.ClientTimeout(total=_START_S, sock_connect=_CONNECT_S),
            )
        return self._client

    def _container(self, handle: str) -> DockerContainer:
        return self._docker.containers.container(handle)

    def _own(self) -> str:
        labels = [f"{LABEL_INSTANCE}={self._instance}", LABEL_INCARNATION]
        return json.dumps({"label": labels})

    async def _network_soon(self) -> dict[str, Any] | None:
        for _ in range(_NETWORK_LOOKS):
            if (network := await self._network()) is not None:
                return network
            await asyncio.sleep(_NETWORK_LOOK_S)
        return None

    async def _network(self) -> dict[str, Any] | None:
        async with _call("look for the sandboxes' network"):
            try:
                network = await self._docker.networks.get(network_name(self._instance))
                return await network.show()
            except DockerError as error:
                if error.status == 404:
                    return None
                raise

    async def _there(self, handle: str) -> Observed:
        observed = await self.inspect(handle)
        if observed is None:
            raise BackendError("The container is gone; somebody removed it.")
        return observed

    async def _thaw(self, observed: Observed | None) -> None:
        """Before an end: the engine waits 10 s for a frozen gVisor to hear its SIGKILL."""
        if observed is None or observed.state != "frozen":
            return
        try:
            async with _call("unfreeze a sandbox"):
                await self._container(observed.handle).unpause()
        except BackendError as error:  # the end that follows decides whether that matters
            _log.warning("sandbox.not_thawed", sandbox=observed.sandbox_id, reason=error.message)

    async def _until_gone(self, handle: str) -> None:
        while await self.inspect(handle) is not None:  # noqa: ASYNC110  (nothing to wait on)
            await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def _call(what: str, *, limit_s: float = _CALL_S) -> AsyncIterator[None]:
    """One call of the engine: within ``limit_s`` seconds, and failing with ``BackendError``."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except HutchError:
        raise
    except TimeoutError as error:
        raise BackendError(
            f"The container engine did not {what} within {limit_s:g} seconds.",
            hint="`hutch doctor` looks for the cause; the engine's own log may tell more.",
        ) from error
    except DockerError as error:
        if error.status == 900:  # aiodocker's own number for: no connection
            raise BackendError(
                "The container engine does not answer.",
                hint="Is it running, and may this user reach it? `hutch doctor` tells.",
            ) from error
        words = " ".join(error.message.split())[:_TEXT_MAX]
        raise BackendError(f"The container engine could not {what}: {words}") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise BackendError(
            f"The container engine could not {what}: the connection broke."
        ) from error
