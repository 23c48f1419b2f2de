"""What the door lets through: the calls of ``backends/docker.py``, and a few of its own.

Nothing that was sent is passed on. Each handler takes apart what was asked, refuses what is not
exactly what the backend asks, and calls the engine with words of its own. Whose a container or a
network is, is read from the engine.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeAlias

from aiodocker.exceptions import DockerError
from aiohttp import web

from hutch.backends.base import (
    LABEL_IMAGE,
    LABEL_INCARNATION,
    LABEL_INSTANCE,
    LABEL_SANDBOX,
    WALL_SANDBOX,
)
from hutch.backends.docker_read import DESCRIPTION, EVENT_KINDS
from hutch.backends.docker_spec import chosen_isolation, container_config, name_of, network_name
from hutch.backends.limits import resources_of
from hutch.backends.privileges import (
    EXECUTE,
    FIREWALL,
    LET_IN,
    PROCESSES,
    RECLAIM,
    STRAYS,
    Privileges,
)
from hutch.config import Settings
from hutch.engine_door.engine import Answer, Engine
from hutch.engine_door.strict import Asked, Refused, expect, parsed
from hutch.engine_door.walls import IMAGE, checked_container, checked_network, checked_program

_GRACE_MAX_S: Final = 300
_FOLLOWERS: Final = 16  # streams of events at once: each API process has one
# Containers that there are in the middle of a roll-out or of a take-over, per one allowed.
_OVER: Final = 2

_ID: Final = "[0-9a-f]{64}"
_SINCE: Final = re.compile(r"[0-9]{1,12}\.[0-9]{9}")


Handler: TypeAlias = Callable[[Asked, Mapping[str, str], bytes], Awaitable[Answer]]
Rule: TypeAlias = tuple[str, re.Pattern[str], Handler]


class EngineDoor:
    def __init__(self, settings: Settings, engine: Engine, privileges: Privileges) -> None:
        self._settings = settings
        self._instance = settings.instance
        self._network = network_name(self._instance)
        self._engine = engine
        self._privileges = privileges
        self._followers = 0
        self._runtimes: frozenset[str] = frozenset()
        name = rf"hutch-{re.escape(self._instance)}-inc_[0-9a-z]{{20}}"
        self._rules = [
            _rule("GET", "/_ping", self._ping),
            _rule("GET", "/version", self._version),
            _rule("GET", "/info", self._info),
            _rule("GET", "/containers/json", self._list),
            _rule("POST", "/containers/create", self._create),
            _rule("GET", f"/containers/(?P<id>{_ID}|{name})/json", self._inspect),
            _rule("GET", f"/containers/(?P<id>{_ID})/stats", self._stats),
            _rule("POST", f"/containers/(?P<id>{_ID})/(?P<verb>start|pause|unpause)", self._do),
            _rule("POST", f"/containers/(?P<id>{_ID})/(?P<verb>stop)", self._stop),
            _rule("DELETE", f"/containers/(?P<id>{_ID})", self._remove),
            _rule("GET", "/networks", self._networks),
            _rule("POST", "/networks/create", self._create_network),
            _rule("GET", f"/networks/(?P<id>{_ID}|{self._network})", self._inspect_network),
            _rule("DELETE", f"/networks/(?P<id>{_ID})", self._remove_network),
            _rule("GET", "/images/json", self._images),
            _rule("GET", f"/images/(?P<image>{IMAGE.pattern})/json", self._inspect_image),
            _rule("DELETE", f"/images/(?P<image>{IMAGE.pattern})", self._remove_image),
            _rule("POST", f"/{RECLAIM}".format(handle=f"(?P<id>{_ID})"), self._reclaim),
            _rule("DELETE", f"/{STRAYS}".format(handle=f"(?P<id>{_ID})"), self._kill_strays),
            _rule("POST", f"/{EXECUTE}".format(handle=f"(?P<id>{_ID})"), self._execute),
            _rule("GET", f"/{PROCESSES}", self._processes),
            _rule("POST", f"/{LET_IN}".format(handle=f"(?P<id>{_ID})"), self._let_in),
            _rule("PUT", f"/{FIREWALL}", self._put_up_firewall),
            _rule("POST", f"/{FIREWALL}", self._look_at_firewall),
            _rule("DELETE", f"/{FIREWALL}", self._take_down_firewall),
        ]

    async def answer(self, asked: Asked, body: bytes) -> Answer:
        """Raises ``Refused``, and ``DockerError`` with what the engine said."""
        await self._check_version(asked)
        for method, pattern, handler in self._rules:
            found = pattern.fullmatch(asked.path) if method == asked.method else None
            if found is not None:
                if body and handler not in {self._create, self._create_network, self._execute}:
                    raise Refused("body", "this call takes none")
                return await handler(asked, found.groupdict(), body)
        raise Refused("call", "the backend of Hutch never makes this call")

    async def follow(self, asked: Asked, request: web.BaseRequest) -> web.StreamResponse:
        """Events of this instance's containers, until either side ends it."""
        await self._check_version(asked)
        filters = {
            "type": ["container"],
            "event": list(EVENT_KINDS),
            "label": [f"{LABEL_INSTANCE}={self._instance}"],
        }
        since = asked.query.get("since", "")
        if _SINCE.fullmatch(since) is None:
            raise Refused("query", "since has to be a time")
        params = {"filters": json.dumps(filters), "since": since, "stream": "1"}
        expect(asked.query, params)
        if self._followers >= _FOLLOWERS:
            raise Refused("limits", f"{_FOLLOWERS} follow the events already", status=503)
        self._followers += 1
        try:
            return await self._stream(params, request)
        finally:
            self._followers -= 1

    async def _stream(
        self, params: Mapping[str, str], request: web.BaseRequest
    ) -> web.StreamResponse:
        async with self._engine.stream("events", params) as chunks:
            response = web.StreamResponse(headers={"content-type": "application/json"})
            await response.prepare(request)
            async for chunk in chunks:
                await response.write(chunk)
            return response

    # What everybody may ask, cut down to what the backend reads.

    async def _ping(self, asked: Asked, _: Mapping[str, str], __: bytes) -> Answer:
        expect(asked.query, {})
        await self._engine.call("GET", "_ping")
        return _json("OK")

    async def _version(self, asked: Asked, _: Mapping[str, str], __: bytes) -> Answer:
        expect(asked.query, {})
        said = await self._engine.version()
        return _json({name: said.get(name) for name in ("Version", "ApiVersion", "MinAPIVersion")})

    async def _info(self, asked: Asked, _: Mapping[str, str], __: bytes) -> Answer:
        expect(asked.query, {})
        said = await self._read_info()
        return _json({name: said.get(name) for name in DESCRIPTION})

    async def _read_info(self) -> Mapping[str, Any]:
        said: Mapping[str, Any] = await self._engine.read("info")
        self._runtimes = frozenset(said.get("Runtimes") or {})
        return said

    # Containers

    async def _list(self, asked: Asked, _: Mapping[str, str], __: bytes) -> Answer:
        params = {"all": "1", "filters": self._own_filter()}
        expect(asked.query, params)
        return await self._engine.call("GET", "containers/json", params)

    async def _create(self, asked: Asked, _: Mapping[str, str], body: bytes) -> Answer:
        spec, isolation = checked_container(
            parsed(body), instance=self._instance, most=resources_of(self._settings)
        )
        params = {"name": name_of(self._instance, spec.incarnation)}
        expect(asked.query, params)
        # Known since the API asked at its start: the engine takes 15 ms to describe itself.
        if not self._runtimes:
            await self._read_info()
        image, others = await asyncio.gather(
            self._image(spec.image),
            self._engine.read("containers/json", {"all": "1", "filters": self._own_filter()}),
        )
        if isolation != chosen_isolation(self._settings.isolation, self._runtimes):
            raise Refused("isolation", f"{isolation} is not what sandboxes run under here")
        most = _OVER * self._settings.max_containers
        if len(others) >= most:
            raise Refused("limits", f"there are {most} containers already")
        # By its id: the name may stand for another image by the time that the engine looks.
        config = container_config(replace(spec, image=image["Id"]), isolation)
        return await self._engine.call(
            "POST", "containers/create", params, body=json.dumps(config).encode()
        )

    async def _inspect(self, asked: Asked, found: Mapping[str, str], _: bytes) -> Answer:
        expect(asked.query, {})
        return _json(await self._container(found["id"]))

    async def _stats(self, asked: Asked, found: Mapping[str, str], _: bytes) -> Answer:
        params = {"stream": "0", "one-shot": "1"}
        expect(asked.query, params)
        await self._container(found["id"])
        return await self._engine.call("GET", f"containers/{found['id']}/stats", params)

    async def _do(self, asked: Asked, found: Mapping[str, str], _: bytes) -> Answer:
        expect(asked.query, {})
        await self._container(found["id"])
        return await self._engine.call("POST", f"containers/{found['id']}/{found['verb']}")

    async def _stop(self, asked: Asked, found: Mapping[str, str], _: bytes) -> Answer:
        grace = asked.query.get("t", "")
        if re.fullmatch("[0-9]{1,3}", grace) is None or int(grace) > _GRACE_MAX_S:
            raise Refused("query", f"t has to be 0 to {_GRACE_MAX_S} seconds")
        expect(asked.query, {"t": grace})
        await self._container(found["id"])
        return await self._engine.call(
            "POST",
            f"containers/{found['id']}/stop",
            params={"t": grace},
            grace_s=int(grace),
        )

    async def _remove(self, asked: Asked, found: Mapping[str, str], _: bytes) -> Answer:
        params = {"force": "1", "v": "1"}
        expect(asked.query, params)
        await self._container(found["id"])
        return await self._engine.call("DELETE", f"containers/{found['id']}", params)

    async def _container(self, name: str) -> dict[str, Any]:
        """Raises ``Refused`` as if it were not there, when it is not this instance's."""
        data: dict[str, Any] = await self._engine.read(f"containers/{name}/json")
        labels = data["Config"].get("Labels") or {}
        if labels.get(LABEL_INSTANCE) != self._instance or LABEL_INCARNATION not in labels:
            raise Refused("own", f"No such container of this instance: {name}", status=404)
        return data

    def _own_filter(self) -> str:
        return json.dumps({"label": [f"{LABEL_INSTANCE}={self._instance}", LABEL_INCARNATION]})

    # Networks

    async def _networks(self, asked: Asked, _: Mapping[str, str], __: bytes) -> Answer:
        params = {"filters": json.dumps({"label": [f"{LABEL_INSTANCE}={self._instance}"]})}
        expect(asked.query, params)
        return await self._engine.call("GET", "networks", params)

    async def _create_network(self, asked: Asked, _: Mapping[str, str], body: bytes) -> Answer:
        expect(asked.query, {})
        config = checked_network(
            parsed(body), instance=self._instance, subnet=self._settings.subnet
        )
        return await self._engine.call("POST", "networks/create", body=json.dumps(config).encode())

    async def _inspect_network(self, asked: Asked, found: Mapping[str, str], _: bytes) -> Answer:
        expect(asked.query, {})
        return _json(await self._own_network(found["id"]))

    async def _remove_network(self, asked: Asked, found: Mapping[str, str], _: bytes) -> Answer:
        expect(asked.query, {})
        await self._own_network(found["id"])
        return await self._engine.call("DELETE", f"networks/{found['id']}")

    async def _own_network(self, name: str) -> dict[str, Any]:
        data: dict[str, Any] = await self._engine.read(f"networks/{name}")
        if (data.get("Labels") or {}).get(LABEL_INSTANCE) != self._instance:
            raise Refused("own", f"No such network of this instance: {name}", status=404)
        return data

    # Images: those that hold a runtime, whoever built them

    async def _images(self, asked: Asked, _: Mapping[str, str], __: bytes) -> Answer:
        params = {"filters": json.dumps({"label": [f"{LABEL_IMAGE}=1"]})}
        expect(asked.query, params)
        return await self._engine.call("GET", "images/json", params)

    async def _inspect_image(self, asked: Asked, found: Mapping[str, str], _: bytes) -> Answer:
        expect(asked.query, {})
        return _json(await self._image(found["image"]))

    async def _remove_image(self, asked: Asked, found: Mapping[str, str], _: bytes) -> Answer:
        params = {"force": "0", "noprune": "0"}
        expect(asked.query, params)
        await self._image(found["image"])
        return await self._engine.call("DELETE", f"images/{found['image']}", params)

    async def _image(self, name: str) -> dict[str, Any]:
        data: dict[str, Any] = await self._engine.read(f"images/{name}/json")
        if (data["Config"].get("Labels") or {}).get(LABEL_IMAGE) != "1":
            raise Refused("image", f"No such image with a runtime: {name}", status=404)
        return data

    # What the engine has no call for

    async def _reclaim(self, asked: Asked, found: Mapping[str, str], _: bytes) -> Answer:
        expect(asked.query, {})
        await self._container(found["id"])
        return _json({"bytes": await self._privileges.reclaim(found["id"])})

    async def _kill_strays(self, asked: Asked, found: Mapping[str, str], _: bytes) -> Answer:
        expect(asked.query, {})
        try:
            await self._engine.read(f"containers/{found['id']}/json")
        except DockerError as error:
            if error.status == 404:
                return _json({"pids": await self._privileges.kill_strays(found["id"])})
            raise
        raise Refused("own", "the container is there, and its processes are no strays", status=409)

    async def _execute(self, asked: Asked, found: Mapping[str, str], body: bytes) -> Answer:
        """No shell into users' sandboxes: only where nothing is but attacks on the walls."""
        expect(asked.query, {})
        argv, within_s, most = checked_program(parsed(body))
        labels = (await self._container(found["id"]))["Config"]["Labels"]
        if not labels.get(LABEL_SANDBOX, "").startswith(WALL_SANDBOX):
            raise Refused("own", "programs are run only where walls are tried")
        output = await self._privileges.execute(
            found["id"], argv, within_s=within_s, output_max=most
        )
        return _json({"output": base64.b64encode(output).decode()})

    async def _processes(self, asked: Asked, _: Mapping[str, str], __: bytes) -> Answer:
        expect(asked.query, {})
        return _json({"containers": sorted(await self._privileges.processes())})

    async def _let_in(self, asked: Asked, found: Mapping[str, str], _: bytes) -> Answer:
        expect(asked.query, {})
        await self._container(found["id"])
        await self._privileges.let_in(found["id"])
        return _json({})

    async def _put_up_firewall(self, asked: Asked, _: Mapping[str, str], __: bytes) -> Answer:
        """For the gateway's port of the door's own settings: no other is for the API to choose."""
        expect(asked.query, {})
        return _json({"warning": await self._privileges.put_up_firewall()})

    async def _look_at_firewall(self, asked: Asked, _: Mapping[str, str], __: bytes) -> Answer:
        expect(asked.query, {})
        look = await self._privileges.look_at_firewall()
        return _json({"restored": look.restored, "warning": look.warning})

    async def _take_down_firewall(self, asked: Asked, _: Mapping[str, str], __: bytes) -> Answer:
        expect(asked.query, {})
        try:
            await self._engine.read(f"networks/{self._network}")
        except DockerError as error:
            if error.status == 404:
                await self._privileges.take_down_firewall()
                return _json({})
            raise
        raise Refused("own", "the network is there, and its firewall stays", status=409)

    async def _check_version(self, asked: Asked) -> None:
        """One version for both: an older one may read the same words in another way."""
        bare = asked.path in {"/_ping", "/version"} or asked.path.startswith("/hutch/")
        wanted = "" if bare else await self._engine.api_version()
        if asked.version != wanted:
            raise Refused("version", f"the path has to begin with /{wanted}", status=400)


def _rule(method: str, path: str, handler: Handler) -> Rule:
    return method, re.compile(path), handler


def _json(value: object) -> Answer:
    return Answer(200, json.dumps(value).encode())
