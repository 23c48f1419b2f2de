"""A whole Hutch of a test's own: the API, the gateway and the offline model as processes, on the
real engine, in a data directory, a network and with ports of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hutch.backends.base import LABEL_INSTANCE
from hutch.backends.open import open_backend
from hutch.client import ClientError
from hutch.config import Settings
from hutch_runtime.protocol import PROVIDERS, Provider
from tests.postgres import running_server
from tests.wire import Wire

DATABASES = ("sqlite", "postgresql")
HUTCH = Path(sys.executable).with_name("hutch")
READY_S = 60
_POLL_S = 0.05
_KEYS: dict[Provider, str] = {
    "claude": "sk-ant-api03-{}-{}",
    "codex": "sk-proj-{}-{}",
    "gemini": "AIza{}-{}",
}

Part: TypeAlias = Literal["model", "door", "gateway", "api"]


def fingerprint(key: str) -> str:
    """As the offline model writes it."""
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def docker(*arguments: str, stdin: str | None = None, check: bool = True) -> str:
    done = subprocess.run(
        ["docker", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not check or done.returncode == 0, f"docker {arguments[0]}: {done.stderr}{done.stdout}"
    return done.stdout


class Model:
    """The offline model, from outside."""

    def __init__(self, url: str) -> None:
        self.url = url

    def asked(self, prompt: str) -> list[dict[str, Any]]:
        """The requests whose last user text was exactly this, oldest first."""
        return [r for r in self._call("requests", "GET")["requests"] if _is_turn(r, prompt)]

    def wait_asked(self, prompt: str, *, within_s: float = 15) -> dict[str, Any]:
        until = time.monotonic() + within_s
        while not (asked := self.asked(prompt)):
            assert time.monotonic() < until, "the model was never asked"
            time.sleep(_POLL_S)
        return asked[-1]

    def behave(self, **behaviour: Any) -> None:
        self._call("behaviour", "POST", behaviour)

    def _call(self, what: str, method: str, body: Mapping[str, Any] | None = None) -> Any:
        request = urllib.request.Request(  # noqa: S310  our own, on loopback
            f"{self.url}/_control/{what}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  the same
            return json.load(answer)


def _is_turn(request: Mapping[str, Any], prompt: str) -> bool:
    return (request["kind"], request["text_sha256"]) == ("turn", digest(prompt))


@dataclass(frozen=True, slots=True)
class User:
    id: str
    key: str
    client: Wire
    provider_keys: Mapping[Provider, str]

    def run(self, provider: str, prompt: str, **options: Any) -> dict[str, Any]:
        """A run to its end; ``options`` as in the API, and ``headers``."""
        headers = options.pop("headers", {})
        body = {"provider": provider, "prompt": prompt, **options}
        return self.client.call("POST", "/v1/runs", json=body, headers=headers)

    def shell(self, provider: str, command: str, **options: Any) -> str:
        """What the model was told that the command printed (its first 200 characters)."""
        run = self.run(provider, f"[[tool:shell {command}]]", **options)
        assert run["state"] == "succeeded", run
        return tool_result(run["text"])

    def container(self) -> str:
        """The engine's name of the user's container."""
        incarnation = self.client.container()["incarnation"]
        names = docker("ps", "-a", "--format", "{{.Names}}").split()
        return next(name for name in names if name.endswith(incarnation))

    def python(self, code: str, *, stdin: Any = None) -> Any:
        """Run Python inside the container, beside the agents; JSON in and out."""
        # The code, not data, goes into the arguments: what is searched for must not be in there.
        given = json.dumps(stdin)
        return json.loads(
            docker("exec", "-i", "-u", "app", self.container(), "python3", "-c", code, stdin=given)
        )


def tool_result(text: str) -> str:
    found = re.search(r' tool_result=(".*")', text, re.DOTALL)
    assert found is not None, text
    result: str = json.loads(found[1])
    return result


@dataclass(frozen=True, slots=True)
class Identity:
    """An ordinary user, by number."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def argv(self) -> tuple[str, ...]:
        groups = ",".join(map(str, (self.gid, *self.groups)))
        # Where Python or the clone is in root's home nobody else can start it: then with the right
        # to read, which is none to write, and a socket is opened by whoever may write to it.
        reads = () if _anybody_can_read() else ("--inh-caps=-all,+dac_read_search",)
        ambient = ("--ambient-caps=-all,+dac_read_search",) if reads else ()
        return (
            *("setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", f"--groups={groups}"),
            *("--no-new-privs", *(reads or ("--inh-caps=-all",)), *ambient),
            *(("--bounding-set=-all,+dac_read_search",) if reads else ("--bounding-set=-all",)),
        )


def _anybody_can_read() -> bool:
    needed = (Path(sys.executable).resolve(), Path(sys.prefix), Path(__file__))
    return all(
        path.stat().st_mode & 0o005 == 0o005
        for file in needed
        for path in (file, *file.parents)[1:]
    )


@dataclass
class Service:
    """Start it with ``running_service``."""

    settings: Settings
    environment: Mapping[str, str]
    address: str  # where sandboxes reach the gateway
    model_port: int
    identities: Mapping[str, Identity] = field(default_factory=dict)  # of parts that are not root's
    _running: dict[Part, subprocess.Popen[bytes]] = field(default_factory=dict)
    _clients: list[Wire] = field(default_factory=list)
    _made: int = 0

    @property
    def url(self) -> str:
        return f"http://{self.settings.host}:{self.settings.port}"

    @property
    def model(self) -> Model:
        return Model(f"http://127.0.0.1:{self.model_port}")

    @property
    def model_log(self) -> Path:
        """Every turn that the model was asked for; see ``hutch.offline_model.request_log``."""
        return self.settings.logs_dir / "model-requests.jsonl"

    @property
    def admin_key(self) -> str:
        return self.settings.admin_key_file.read_text().strip()

    def client(self, key: str, *, user_id: str | None = None) -> Wire:
        client = Wire(self.url, key, user_id=user_id)
        self._clients.append(client)
        return client

    @property
    def admin(self) -> Wire:
        return self.client(self.admin_key)

    def make_user(self, *, credentials: bool = True) -> User:
        """With a key for each provider that nobody else has, unless ``credentials`` is false."""
        self._made += 1
        name = f"user{self._made}"
        made = self.admin.call("POST", "/v1/admin/users", json={"name": name})
        unique = hashlib.sha256(made["id"].encode()).hexdigest()
        keys = {p: _KEYS[p].format(name, unique) for p in PROVIDERS} if credentials else {}
        user = User(made["id"], made["key"], self.client(made["key"]), keys)
        for provider, key in keys.items():
            user.client.put_api_key(provider, key)
        return user

    def start(self, *names: Part) -> None:
        self.launch(*names)
        self._wait_until_ready()

    def open_door(self) -> None:
        """The others do not start without."""
        self.launch("door")
        until = time.monotonic() + READY_S
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as door:
                    door.connect(self.settings.engine_door)
                return
            except OSError:  # not there yet, or still that of one that was killed
                assert time.monotonic() < until, self.log("door")
                time.sleep(_POLL_S)

    def launch(self, *names: Part) -> None:
        """Without a wait until they are ready."""
        for name in names:
            log = self.settings.logs_dir / f"{name}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                self._running[name] = subprocess.Popen(
                    (*self._identity(name), *self._argv(name)),
                    env=self._environment(name),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )

    def kill(self, name: Part) -> None:
        """With no chance to tidy up."""
        process = self._running.pop(name)
        process.kill()
        process.wait(timeout=10)

    def ended(self) -> list[Part]:
        """What was started, and has ended by itself."""
        return [name for name, process in self._running.items() if process.poll() is not None]

    def terminate(self, name: Part) -> None:
        """As a service manager does it."""
        process = self._running.pop(name)
        process.terminate()
        process.wait(timeout=20)

    @contextlib.contextmanager
    def without(self, name: Part) -> Iterator[None]:
        """Killed, and started again afterwards."""
        self.kill(name)
        try:
            yield
        finally:
            self.start(name)

    def restart(self, name: Part) -> None:
        with self.without(name):
            pass

    def stop(self) -> None:
        for client in self._clients:
            client.__exit__()
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for name, process in self._running.items():
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)
                raise AssertionError(f"{name} did not end within 15 s of SIGTERM") from None

    def left_behind(self) -> list[str]:
        """Containers, networks, firewalls and processes of this service that are still there."""
        label = f"label={LABEL_INSTANCE}={self.settings.instance}"
        left = docker("ps", "-a", "--filter", label, "--format", "container {{.Names}}")
        left += docker("network", "ls", "--filter", label, "--format", "network {{.Name}}")
        left += firewall_tables(self.settings.instance)
        return left.splitlines() + _processes_of(self.settings.data_dir)

    def _environment(self, name: str) -> dict[str, str]:
        """The door's socket is for the API's group, the gateway's for its own."""
        whose = self.identities.get("api" if name == "door" else name)
        group = {"HUTCH_SOCKET_GROUP": str(whose.gid)} if whose else {}
        return {**self.environment, **group}

    def _identity(self, name: str) -> tuple[str, ...]:
        return self.identities[name].argv() if name in self.identities else ()

    def _argv(self, name: str) -> tuple[str, ...]:
        python = sys.executable
        match name:
            case "model":
                port = ("--port", str(self.model_port))
                return (python, "-m", "hutch.offline_model", *port, "--log", str(self.model_log))
            case "door":
                return (python, "-m", "hutch.engine_door")
            case "gateway":
                return (python, "-m", "hutch.gateway", "--host", self.address)
            case _:
                return (str(HUTCH), "serve")

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + READY_S
        with Wire(self.url, "") as client:
            while True:
                for name, process in self._running.items():
                    assert process.poll() is None, f"{name} ended at once:\n{self.log(name)}"
                try:
                    if "model" in self._running:
                        socket.create_connection(("127.0.0.1", self.model_port), timeout=1).close()
                    if "api" in self._running:
                        client.call("GET", "/readyz")
                    return
                except (ClientError, OSError) as error:
                    last = error
                assert time.monotonic() < until, f"not ready: {last}\n{self.log('api')}"
                time.sleep(_POLL_S)

    def log(self, name: str) -> str:
        return (self.settings.logs_dir / f"{name}.log").read_text()[-4000:]


def chosen_database() -> str:
    """What all services of this run of the tests are to use; "" if each test decides."""
    chosen = os.environ.get("HUTCH_TEST_DATABASE", "")
    assert chosen in {"", *DATABASES}, f"HUTCH_TEST_DATABASE is one of {DATABASES}"
    return chosen


@contextlib.contextmanager
def running_service(data_dir: Path, *, database: str = "", **overrides: str) -> Iterator[Service]:
    """``overrides`` are settings by their names in the environment, without ``HUTCH_``. After it,
    nothing is left of it on the machine; that is asserted.
    """
    with contextlib.ExitStack() as stack:
        if (database or chosen_database()) == "postgresql":
            server = stack.enter_context(running_server())
            overrides["DATABASE_URL"] = server.new_database()
        yield stack.enter_context(running_apart(data_dir, {}, overrides))


@contextlib.contextmanager
def running_apart(
    data_dir: Path, identities: Mapping[str, Identity], overrides: Mapping[str, str]
) -> Iterator[Service]:
    """The same, with parts that are not root's, and on SQLite where the overrides do not say."""
    api, gateway, model = free_ports(3)
    ours = {
        "DATA_DIR": str(data_dir),
        "PORT": str(api),
        "GATEWAY_PORT": str(gateway),
        "POOL_SIZE": "0",  # a test that is about the pool asks for one
        "WALLS": "off",  # tests/security attacks them
        **{f"{p.upper()}_BASE_URL": f"http://127.0.0.1:{model}" for p in PROVIDERS},
        **overrides,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HUTCH_")}
    environment = {**kept, **{f"HUTCH_{name}": value for name, value in ours.items()}}
    settings = Settings(**{name.lower(): value for name, value in ours.items()})  # type: ignore[arg-type]  # strings, as from the environment
    ourselves = settings.model_copy(update={"engine_door": ""})  # root, as the tests are
    service = Service(settings, environment, asyncio.run(_prepare(ourselves)), model, identities)
    try:
        if settings.engine_door:
            service.open_door()
        service.start("model", "gateway", "api")
        yield service
    finally:
        try:
            service.stop()
        finally:
            asyncio.run(_clean_up(ourselves))
        assert service.left_behind() == []


async def _prepare(settings: Settings) -> str:
    backend = open_backend(settings)
    try:
        return await backend.prepare()
    finally:
        await backend.close()


async def _clean_up(settings: Settings) -> None:
    backend = open_backend(settings)
    try:
        await backend.cleanup()
    finally:
        await backend.close()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in free]


def firewall_tables(instance: str) -> str:
    """One a line; none where nobody can have made any."""
    nft = shutil.which("nft", path="/usr/sbin:/sbin")
    if nft is None or os.geteuid() != 0:
        return ""
    said = subprocess.run([nft, "list", "tables"], capture_output=True, text=True, check=True)
    return "".join(
        f"{line}\n" for line in said.stdout.splitlines() if line.endswith(f" hutch-{instance}")
    )


def _processes_of(data_dir: Path) -> list[str]:
    """Those that were started with this data directory, whoever their parent is by now."""
    wanted = f"HUTCH_DATA_DIR={data_dir}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            if wanted in environ.read_bytes().split(b"\0"):
                found.append(f"process {environ.parent.name}")
    return found
