"""What somebody tries who has taken over the API process: raw requests to the door's socket.

Each has to be refused, and the engine, which is the real one, must not have been asked for more
than a look. The recorder between it and the door says what it was asked.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
import pytest_asyncio

from hutch.backends import nft
from hutch.backends.base import Observed, SandboxSpec
from hutch.backends.docker import DockerBackend
from hutch.backends.docker_read import DESCRIPTION
from hutch.backends.docker_spec import container_config, name_of, network_config
from hutch.config import Settings
from hutch.engine_door.server import Server
from hutch.ids import new_id
from tests.contract.conftest import IMAGE, docker
from tests.engine_door.recording import ENGINE, Recorder, recording

pytestmark = pytest.mark.asyncio(loop_scope="module")

MARK: Final = "refused by Hutch's engine door"


@dataclass(frozen=True, slots=True)
class Scene:
    settings: Settings
    recorder: Recorder
    own: Observed
    other: str  # a container of another instance
    alien: str  # one that has nothing to do with Hutch
    version: str

    def create(self, **host: Any) -> tuple[str, dict[str, Any]]:
        """The target and the body of a creation that is right, but for what is given."""
        spec = SandboxSpec(
            self.settings.instance, new_id("sbx"), new_id("inc"), IMAGE, {"HUTCH_TEST_COMMAND": "x"}
        )
        config = container_config(spec, "runc")
        config["HostConfig"].update(host)
        return self.named(spec.incarnation), config

    def named(self, incarnation: str) -> str:
        return f"/{self.version}/containers/create?name=" + name_of(
            self.settings.instance, incarnation
        )

    async def send(self, raw: bytes) -> tuple[int, str]:
        """Status and body; (0, "") where the connection was just closed."""
        reader, writer = await asyncio.open_unix_connection(self.settings.engine_door)
        try:
            writer.write(raw)
            async with asyncio.timeout(20):
                said = await reader.read()
        except ConnectionError:
            return 0, ""
        finally:
            writer.close()
        head, _, body = said.partition(b"\r\n\r\n")
        return (int(head.split()[1]) if head else 0), body.decode("utf-8", "replace")

    async def ask(
        self, method: str, target: str, body: bytes = b"", headers: str = ""
    ) -> tuple[int, str]:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {target} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n"
        return await self.send(f"{head}{length}{headers}\r\n".encode() + body)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(image: str) -> AsyncIterator[Scene]:
    with tempfile.TemporaryDirectory() as short:
        socket = Path(short) / "engine.sock"
        async with recording(socket) as recorder:
            settings = Settings(
                data_dir=Path(short),
                isolation="runc",
                docker_host=f"unix://{socket}",
                engine_door=f"{short}/door.sock",
            )
            server = Server(settings)
            await server.start()
            backend = DockerBackend(settings)
            others = []
            try:
                await backend.prepare()
                incarnation = new_id("inc")
                own = await backend.create(
                    SandboxSpec(
                        settings.instance,
                        new_id("sbx"),
                        incarnation,
                        image,
                        {"HUTCH_TEST_COMMAND": "exec sleep 600"},
                    )
                )
                own = await backend.start(own.handle)
                label = ("--label", "hutch.instance=ffffffff", "--label", "hutch.incarnation=x")
                for labels in (label, ()):
                    run = ("run", "-d", "--network", "none", *labels, "--entrypoint", "sleep")
                    others.append((await asyncio.to_thread(docker, *run, image, "600")).strip())
                said = json.loads(docker("version", "--format", "{{json .Server}}"))
                version = f"v{said['ApiVersion']}"
                yield Scene(settings, recorder, own, others[0], others[1], version)
                for handle in (own.handle, *others):
                    state = json.loads(docker("inspect", "--format", "{{json .State}}", handle))
                    assert (state["Status"], state["Paused"]) == ("running", False)
            finally:
                for handle in others:
                    docker("rm", "-f", handle)
                await backend.cleanup()
                await backend.close()
                await server.close()


async def refused(scene: Scene, answer: tuple[int, str], *, by: str = MARK) -> None:
    status, body = answer
    assert status >= 400 or status == 0, body
    if status:
        assert by in body, body
    assert scene.recorder.changes() == []


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def looks_alone(scene: Scene) -> None:
    scene.recorder.asked.clear()


async def test_what_is_right_passes(scene: Scene) -> None:
    """Or every refusal below might have another reason."""
    target, config = scene.create()
    status, body = await scene.ask("POST", target, json.dumps(config).encode())
    assert status == 201, body
    handle = json.loads(body)["Id"]
    assert [method for method, _ in scene.recorder.changes()] == ["POST"]
    made = json.loads(docker("inspect", handle))[0]
    assert made["Image"] == made["Config"]["Image"]  # by its id, whatever the name means by now
    assert made["HostConfig"]["Privileged"] is False
    gone = f"/{scene.version}/containers/{handle}?force=1&v=1"
    assert (await scene.ask("DELETE", gone))[0] == 204
    assert (await scene.ask("GET", f"/{scene.version}/containers/{handle}/json"))[0] == 404


@pytest.mark.parametrize(
    "host",
    [
        {"Privileged": True},
        {"Binds": ["/:/host"]},
        {"Binds": ["/var/run/docker.sock:/var/run/docker.sock"]},
        {"PidMode": "host"},
        {"NetworkMode": "host"},
        {"CapAdd": ["SYS_ADMIN"]},
        {"Devices": [{"PathOnHost": "/dev/mem", "PathInContainer": "/dev/mem"}]},
        {"Memory": 64 << 30, "MemorySwap": 64 << 30},
        {"PidsLimit": 100_000},
    ],
    ids=lambda host: next(iter(host)),
)
async def test_containers_with_a_way_out(scene: Scene, host: dict[str, Any]) -> None:
    target, config = scene.create(**host)
    await refused(scene, await scene.ask("POST", target, json.dumps(config).encode()))


async def test_bodies_that_two_parsers_read_in_two_ways(scene: Scene) -> None:
    """The engine's JSON knows no case, and takes the last of two."""
    target, config = scene.create()
    right = json.dumps(config)
    walls = json.dumps({**config["HostConfig"], "Privileged": True})
    for body in (
        right[:-1] + f', "HostConfig": {walls}}}',
        f'{{"HostConfig": {walls}, ' + right[1:],
        right[:-1] + f', "hostconfig": {walls}}}',
        right[:-1] + f', "HOSTCONFIG": {walls}}}',
        right.replace(
            '"HostConfig": {', '"HostConfig": {"privileged": true, "Privileged": false, '
        ),
        right.replace('"HostConfig": {', '"HostConfig": {"Priv\\u0069leged": true, '),
        right.replace('"HostConfig": {', '"HostConfig": {"\u017fecurityOpt": [], '),  # folds to s
        right + right,
        "\ufeff" + right,
        right.replace("null", "NaN").replace("500", "5e2"),
    ):
        assert body != right
        await refused(scene, await scene.ask("POST", target, body.encode()))


async def test_bodies_in_disguise(scene: Scene) -> None:
    target, config = scene.create()
    right = json.dumps(config).encode()
    chunked = f"{len(right):x}\r\n".encode() + right + b"\r\n0\r\n\r\n"
    head = f"POST {target} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
    for headers, body in (
        ("Transfer-Encoding: chunked\r\n", chunked),
        (f"Transfer-Encoding: chunked\r\nContent-Length: {len(right)}\r\n", chunked),
        (f"Content-Length: {len(right)}\r\nContent-Length: 5\r\n", right),
        (
            f"Content-Encoding: gzip\r\nContent-Length: {len(gzip.compress(right))}\r\n",
            gzip.compress(right),
        ),
        (f"Expect: 100-continue\r\nContent-Length: {len(right)}\r\n", right),
        ("Content-Length: 99999999999\r\n", right),
        ("Content-Length: -1\r\n", right),
        (f"Content-Length: {len(right)}\r\nX: {'x' * 20_000}\r\n", right),
        (f"Content-Length: {len(right)}\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n", right),
        (f"Content-Length : {len(right)}\r\n", right),
    ):
        answer = await scene.send(f"{head}{headers}\r\n".encode() + body)
        assert answer[0] == 0 or answer[0] >= 400, (headers, answer)
        assert scene.recorder.changes() == [], headers
    big = right[:-1] + b" " * 300_000 + b"}"
    await refused(scene, await scene.ask("POST", target, big))


async def test_names_of_others(scene: Scene) -> None:
    target, config = scene.create()
    body = json.dumps(config).encode()
    path = target.partition("?")[0]
    for wrong in (
        path,
        f"{path}?name=other",
        f"{target}&name=other",
        f"{path}?name=other&{target.partition('?')[2]}",
        f"{target}&platform=linux",
        scene.named(new_id("inc")),
    ):
        await refused(scene, await scene.ask("POST", wrong, body))
    config["Labels"]["hutch.instance"] = "ffffffff"
    await refused(scene, await scene.ask("POST", target, json.dumps(config).encode()))


async def test_images_that_are_none_of_hutchs(scene: Scene) -> None:
    target, config = scene.create()
    docker("import", "/dev/null", "hutch-test-alien:latest")  # nothing is in it, nor any label
    try:
        config["Image"] = "hutch-test-alien:latest"
        await refused(scene, await scene.ask("POST", target, json.dumps(config).encode()))
        for method, path in (
            ("GET", "images/hutch-test-alien:latest/json"),
            ("DELETE", "images/hutch-test-alien:latest?force=0&noprune=0"),
            ("DELETE", f"images/{IMAGE}?force=1&noprune=0"),
            ("DELETE", f"images/{IMAGE}"),
            ("GET", "images/json"),
            ("POST", f"images/{IMAGE}/tag?repo=x"),
            ("POST", f"images/{IMAGE}/push"),
            ("GET", f"images/{IMAGE}/get"),
            ("GET", f"images/{IMAGE}/history"),
        ):
            await refused(scene, await scene.ask(method, f"/{scene.version}/{path}"))
    finally:
        docker("rmi", "hutch-test-alien:latest")


CALLS_ON_A_CONTAINER: Final = (
    ("GET", "json"),
    ("POST", "start"),
    ("POST", "pause"),
    ("POST", "unpause"),
    ("POST", "stop?t=0"),
    ("GET", "stats?stream=0&one-shot=1"),
)


@pytest.mark.parametrize("whose", ["other", "alien"])
async def test_containers_of_others(scene: Scene, whose: str) -> None:
    handle = getattr(scene, whose)
    for method, call in CALLS_ON_A_CONTAINER:
        path = f"/{scene.version}/containers/{handle}/{call}"
        await refused(scene, await scene.ask(method, path))
    path = f"/{scene.version}/containers/{handle}?force=1&v=1"
    await refused(scene, await scene.ask("DELETE", path))
    for method, path in (
        ("POST", f"/hutch/containers/{handle}/reclaim"),
        ("DELETE", f"/hutch/containers/{handle}/processes"),
        ("POST", f"/hutch/containers/{handle}/let-in"),
    ):
        await refused(scene, await scene.ask(method, path))
    listing = json.dumps({"label": ["hutch.instance=ffffffff", "hutch.incarnation"]})
    for query in ("", "?all=1", f"?all=1&filters={quote(listing)}", "?all=1&filters=%7B%7D"):
        path = f"/{scene.version}/containers/json{query}"
        await refused(scene, await scene.ask("GET", path))


# The own container, in ways that reach its inside or the host.
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "containers/{own}/exec"),
        ("POST", "containers/{own}/attach?stream=1&stdin=1"),
        ("GET", "containers/{own}/attach/ws"),
        ("GET", "containers/{own}/archive?path=/"),
        ("HEAD", "containers/{own}/archive?path=/"),
        ("PUT", "containers/{own}/archive?path=/workspace"),
        ("GET", "containers/{own}/export"),
        ("GET", "containers/{own}/logs?stdout=1"),
        ("GET", "containers/{own}/top"),
        ("GET", "containers/{own}/changes"),
        ("GET", "containers/{own}/json?size=1"),
        ("GET", "containers/{own}/stats?stream=1"),
        ("POST", "containers/{own}/update"),
        ("POST", "containers/{own}/rename?name=x"),
        ("POST", "containers/{own}/kill"),
        ("POST", "containers/{own}/kill?signal=SIGKILL"),
        ("POST", "containers/{own}/restart"),
        ("POST", "containers/{own}/wait"),
        ("POST", "containers/{own}/resize?h=1&w=1"),
        ("POST", "containers/{own}/start?detachKeys=x"),
        ("POST", "containers/{own}/checkpoints"),
        ("POST", "containers/{own}/stop"),
        ("POST", "containers/{own}/stop?t=-1"),
        ("POST", "containers/{own}/stop?t=999"),
        ("POST", "containers/{own}/stop?t=1&signal=USR1"),
        ("DELETE", "containers/{own}"),
        ("DELETE", "containers/{own}?force=1&v=1&link=1"),
        ("DELETE", "containers/{own12}?force=1&v=1"),
        ("POST", "commit?container={own}&repo=hutch-sandbox"),
        ("POST", "exec/{own}/start"),
        ("POST", "build?remote=http://x/"),
        ("POST", "images/create?fromImage=x"),
        ("POST", "images/load"),
        ("POST", "images/prune"),
        ("POST", "containers/prune"),
        ("POST", "networks/prune"),
        ("POST", "volumes/prune"),
        ("POST", "build/prune"),
        ("GET", "volumes"),
        ("POST", "volumes/create"),
        ("GET", "networks"),
        ("GET", "networks/bridge"),
        ("GET", "networks/host"),
        ("DELETE", "networks/bridge"),
        ("POST", "networks/{network}/connect"),
        ("POST", "networks/{network}/disconnect"),
        ("DELETE", "networks/{network}"),
        ("GET", "events"),
        ("GET", "events?since=0"),
        ("GET", "info?x=1"),
        ("GET", "system/df"),
        ("POST", "auth"),
        ("POST", "session"),
        ("POST", "grpc"),
        ("POST", "swarm/init"),
        ("GET", "swarm"),
        ("GET", "secrets"),
        ("GET", "configs"),
        ("POST", "plugins/pull?remote=x"),
        ("GET", "plugins"),
        ("GET", "distribution/x/json"),
        ("GET", "_ping"),
        ("GET", "metrics"),
        ("GET", "debug/pprof/cmdline"),
    ],
)
async def test_calls_that_hutch_never_makes(scene: Scene, method: str, path: str) -> None:
    names = {
        "own": scene.own.handle,
        "own12": scene.own.handle[:12],
        "network": f"hutch-{scene.settings.instance}",
    }
    status, body = await scene.ask(method, f"/{scene.version}/{path.format(**names)}")
    assert status >= 400
    assert MARK in body or method == "HEAD"
    assert scene.recorder.changes() == []


async def test_ways_around_the_path(scene: Scene) -> None:
    own, other, version = scene.own.handle, scene.other, scene.version
    for target in (
        f"//{version}/containers/{own}/stop?t=0",
        f"/{version}//containers/{own}/stop?t=0",
        f"/{version}/containers//{own}/stop?t=0",
        f"/{version}/containers/{own}/stop/?t=0",
        f"/{version}/./containers/{own}/stop?t=0",
        f"/{version}/../{version}/containers/{own}/stop?t=0",
        f"/{version}/images/../containers/{own}/stop?t=0",
        f"/{version}/containers/{own}/../{other}/stop?t=0",
        f"/{version}/containers/{own}%2f..%2f{other}/stop?t=0",
        f"/{version}/containers/{own}/%2e%2e/{other}/stop?t=0",
        f"/{version}/containers/{own}/..;/{other}/stop?t=0",
        f"/{version}/containers/{own}/%73top?t=0",
        f"/{version}/Containers/{own}/stop?t=0",
        f"/{version}/containers/{own.upper()}/stop?t=0",
        f"/{version}/containers/{own}/stop?t=0&t=1",
        f"/{version}/containers/{own}/stop?%74=0",
        f"/{version}/{version}/containers/{own}/stop?t=0",
        f"/containers/{own}/stop?t=0",
        f"/v1.24/containers/{own}/stop?t=0",
        f"/v1.99/containers/{own}/stop?t=0",
        f"/v2/containers/{own}/stop?t=0",
        f"/{version}/hutch/containers/{own}/reclaim",
        f"/hutch/containers/{own}/reclaim?x=1",
        f"/hutch/../containers/{own}/stop?t=0",
        f"http://docker/{version}/containers/{own}/stop?t=0",
        f"/{version}/containers/{own}/stop?t=0#",
    ):
        await refused(scene, await scene.ask("POST", target))
    for method in ("post", "GET", "PUT", "PATCH", "OPTIONS", "TRACE", "DELETE", "PROPFIND"):
        target = f"/{version}/containers/{own}/stop?t=0"
        status, _ = await scene.ask(method, target)
        assert status >= 400 or status == 0, method
        assert scene.recorder.changes() == []


async def test_connections_that_would_be_something_else(scene: Scene) -> None:
    start = f"/{scene.version}/containers/{scene.own.handle}/start"
    for headers in (
        "Upgrade: tcp\r\n",
        "Connection: Upgrade\r\nUpgrade: tcp\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n",
        "Connection: upgrade\r\n",
        "Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n",
    ):
        raw = f"POST {start} HTTP/1.1\r\nHost: d\r\n{headers}\r\n"
        status, _ = await scene.send(raw.encode())
        assert status >= 400 or status == 0, headers
        assert scene.recorder.changes() == []
    for raw_ in (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT /var/run/docker.sock HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello\r\n\r\n",
    ):
        status, _ = await scene.send(raw_)
        assert status >= 400 or status == 0
        assert scene.recorder.asked == []


async def test_what_comes_behind_a_refusal_is_not_heard(scene: Scene) -> None:
    stop = (
        f"POST /{scene.version}/containers/{scene.own.handle}/stop?t=0 HTTP/1.1\r\nHost: d\r\n\r\n"
    )
    first = f"POST /{scene.version}/containers/{scene.own.handle}/exec HTTP/1.1\r\nHost: d\r\n"
    for between in ("\r\n", f"Content-Length: {len(stop)}\r\n\r\n"):
        status, body = await scene.send(f"{first}{between}{stop}".encode())
        assert (status, body.count("HTTP/1.1")) == (403, 0)
        assert scene.recorder.changes() == []


async def test_a_body_where_none_belongs(scene: Scene) -> None:
    """Old engines took walls with the start."""
    path = f"/{scene.version}/containers/{scene.own.handle}/start"
    body = json.dumps({"Privileged": True, "Binds": ["/:/h"]}).encode()
    await refused(scene, await scene.ask("POST", path, body))


async def test_networks_that_are_open(scene: Scene) -> None:
    path = f"/{scene.version}/networks/create"
    right = network_config(scene.settings.instance, "")
    for change in ({"Internal": False}, {"Driver": "macvlan"}, {"Name": "hutch-ffffffff"}):
        body = json.dumps({**right, **change}).encode()
        await refused(scene, await scene.ask("POST", path, body))


async def test_processes_of_a_container_that_lives(scene: Scene) -> None:
    path = f"/hutch/containers/{scene.own.handle}/processes"
    status, body = await scene.ask("DELETE", path)
    assert (status, MARK in body) == (409, True)


async def test_a_firewall_that_is_needed_and_one_of_another_port(scene: Scene) -> None:
    status, body = await scene.ask("DELETE", "/hutch/firewall")
    assert (status, MARK in body) == (409, True)
    await refused(scene, await scene.ask("PUT", "/hutch/firewall?gateway_port=22"))
    await refused(scene, await scene.ask("PUT", "/hutch/firewall", b'{"gateway_port": 22}'))
    await refused(scene, await scene.ask("POST", "/hutch/firewall", b'{"restored": true}'))


@pytest.mark.skipif(os.geteuid() != 0, reason="changes the host's packet filter")
async def test_the_firewall_is_the_doors_to_keep(scene: Scene) -> None:
    table = f"hutch-{scene.settings.instance}"
    backend = DockerBackend(scene.settings)
    try:
        for family in ("inet", "bridge"):
            await nft.load(f"delete table {family} {table}")
        look = await backend.keep_firewall()
        assert (look.restored, look.warning) == (True, "")
        tables = str([await nft.table("inet", table), await nft.table("bridge", table)])
        for place in (str(scene.own.address), str(scene.settings.gateway_port)):
            assert place in tables
    finally:
        await backend.close()
    assert scene.recorder.changes() == []


async def test_its_own_three_calls(scene: Scene) -> None:
    """As the backend makes them; on a made-up container, whose processes are surely gone."""
    backend = DockerBackend(scene.settings)
    try:
        assert await backend.reclaim(scene.own.handle) >= 0
        assert scene.own.handle in await backend.processes()
        assert await backend._privileges.kill_strays("f" * 64) == []
    finally:
        await backend.close()
    assert scene.recorder.changes() == []


async def test_programs_run_only_where_walls_are_tried(scene: Scene) -> None:
    argv = {"argv": ["true"], "within_ms": 1000, "output_max": 10}
    own, other = scene.own.handle, scene.other
    for handle, body in (
        (own, argv),
        (other, argv),
        (own, {**argv, "argv": []}),
        (own, {**argv, "argv": "true"}),
        (own, {**argv, "within_ms": 10**9}),
        (own, {**argv, "user": "0"}),
        (own, {**argv, "Privileged": True}),
        (own, []),
    ):
        path = f"/hutch/containers/{handle}/execute"
        await refused(scene, await scene.ask("POST", path, json.dumps(body).encode()))


async def test_little_is_told(scene: Scene) -> None:
    """The engine's own answers say much about the machine."""
    _, body = await scene.ask("GET", f"/{scene.version}/info")
    assert set(json.loads(body)) == set(DESCRIPTION)
    _, body = await scene.ask("GET", "/version")
    assert set(json.loads(body)) == {"Version", "ApiVersion", "MinAPIVersion"}


async def test_events_are_the_instances_own(scene: Scene) -> None:
    label = f"hutch.instance={scene.settings.instance}"
    kinds = ["start", "die", "oom", "pause", "unpause", "destroy"]
    right = {"type": ["container"], "event": kinds, "label": [label]}
    for filters in (
        {**right, "label": []},
        {**right, "label": ["hutch.instance=ffffffff"]},
        {**right, "type": ["container", "image"]},
        {**right, "event": [*kinds, "exec_create"]},
    ):
        path = f"/{scene.version}/events?since=1.000000000&stream=1&filters="
        await refused(scene, await scene.ask("GET", path + quote(json.dumps(filters))))


async def test_the_socket_is_its_owners_alone(scene: Scene) -> None:
    assert Path(scene.settings.engine_door).stat().st_mode & 0o777 == 0o600
    assert Path(ENGINE).exists()
