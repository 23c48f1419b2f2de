"""A gateway and an upstream, both on real sockets; sandboxes are loopback addresses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import uvloop
from aiohttp import web

from hutch.config import Settings
from hutch.gateway.client import GatewayClient
from hutch.gateway.server import Gateway
from hutch.gateway.table import Entry, ExitProxy, HostRule, Route
from hutch.secrets import Secret
from hutch_runtime.protocol import PROVIDERS

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_TEST_S = 30
HEADERS = {"claude": "x-api-key", "codex": "Authorization", "gemini": "x-goog-api-key"}


@dataclass
class Seen:
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    source: str  # the address that the connection came from

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclass
class Upstream:
    """A model API that notes what it is sent; ``handler`` says what it answers."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    handler: Handler | None = None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.handler is not None:
            return await self.handler(request)
        body = await request.read()
        source = request.transport.get_extra_info("peername")[0] if request.transport else ""
        self.seen.append(
            Seen(request.method, request.raw_path, list(request.headers.items()), body, source)
        )
        return web.Response(text="from upstream")


@dataclass
class Setup:
    gateway: Gateway
    control: GatewayClient
    upstream: Upstream

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    def entry(
        self,
        address: str,
        user: str | None = "user_a",
        *,
        sandbox: str = "sbx_a",
        leaves: ExitProxy | None = None,
        allow: Iterable[HostRule] = (),
        **changes: str,
    ) -> Entry:
        base_url = changes.get("base_url", f"{self.upstream.url}/base")
        return Entry(
            sandbox_id=sandbox,
            incarnation=changes.get("incarnation", f"inc_of_{sandbox}"),
            address=address,
            user_id=user,
            placeholder=Secret(changes.get("placeholder", f"placeholder-{sandbox}")),
            routes={
                provider: Route(base_url, ((HEADERS[provider], Secret(f"real-{provider}-{user}")),))
                for provider in PROVIDERS
            },
            egress="exit" if leaves else "direct",
            exit=leaves,
            allow=tuple(allow),
        )

    def session(self, address: str) -> aiohttp.ClientSession:
        """HTTP as from the sandbox that has this address."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(local_addr=(address, 0)), auto_decompress=False
        )

    async def tunnel(
        self, address: str, place: str, *, early: bytes = b""
    ) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
        """CONNECT as from that sandbox; the answer's head, and the streams behind it."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.gateway.port, local_addr=(address, 0)
        )
        writer.write(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode() + early)
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
        return head, reader, writer

    async def raw(self, address: str, request: bytes) -> bytes:
        """Send these very bytes; what comes back until the gateway closes, or 2 s of silence."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.gateway.port, local_addr=(address, 0)
        )
        writer.write(request)
        answer = b""
        try:
            async with asyncio.timeout(2):
                while chunk := await reader.read(65536):
                    answer += chunk
        except TimeoutError:
            pass
        finally:
            writer.close()
        return answer


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    one = Upstream()
    server = web.Server(one.handle, auto_decompress=False, handler_cancellation=True)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield one
    await runner.cleanup()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """What stands for the internet here is the loopback network."""
    return Settings(
        data_dir=tmp_path,
        gateway_port=0,
        egress_networks=("127.0.0.0/8",),
        egress_mb_per_s=0,  # what is tried is what one may not
        egress_requests_per_s=0,
    )


class Names:
    """A resolver: each name's answers in turn, the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []

    async def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        answers = self.answers.get(host)
        if not answers:
            raise OSError("unknown")
        return answers.pop(0) if len(answers) > 1 else answers[0]


def _end_everything() -> None:
    for task in asyncio.all_tasks():
        task.cancel("the test takes too long")


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
async def unsynced(settings: Settings, upstream: Upstream, names: Names) -> AsyncIterator[Setup]:
    """Just started: nobody has told it anything."""
    gateway = Gateway(settings, host="127.0.0.1", resolver=names)
    await gateway.start()
    control = GatewayClient(settings.gateway_socket)
    # uvloop swallows what pytest-timeout raises: a test that hangs has to be ended from inside.
    limit = asyncio.get_running_loop().call_later(_TEST_S, _end_everything)
    yield Setup(gateway, control, upstream)
    limit.cancel()
    await control.close()
    await gateway.close()


@pytest.fixture
async def setup(unsynced: Setup) -> Setup:
    """127.0.0.2 is the sandbox of user_a, 127.0.0.3 is the one of user_b."""
    await unsynced.control.put_table(
        [
            unsynced.entry("127.0.0.2"),
            unsynced.entry("127.0.0.3", "user_b", sandbox="sbx_b"),
        ]
    )
    return unsynced


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The gateway runs on uvloop; its sockets behave a little differently there."""
    return {"uvloop": uvloop.new_event_loop}
