"""Commands go out through the gateway as a proxy; the CLIs' own model requests straight to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hutch_runtime.protocol import PROVIDERS, Provider
from hutch_runtime.providers import open_driver
from hutch_runtime.providers.base import Prompt
from tests.runtime.driving import Log, make_setup
from tests.runtime.model import running_model

# As in a sandbox, the gateway is neither 127.0.0.1 nor a name.
GATEWAY = "127.0.0.77"


@dataclass
class Relay:
    """Stands where the gateway does: passes everything to the model, and notes request lines."""

    url: str = ""
    lines: list[str] = field(default_factory=list)


@asynccontextmanager
async def relay_to(model_url: str) -> AsyncIterator[Relay]:
    relay = Relay()
    tasks: set[asyncio.Task[None]] = set()
    model = urlsplit(model_url)

    async def pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lines: list[str] | None
    ) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            while data := await reader.read(1 << 20):
                if lines is not None and data.partition(b" ")[0] in {b"GET", b"POST", b"CONNECT"}:
                    lines.append(data.partition(b"\r\n")[0].decode())
                writer.write(data)
                await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        up, down = await asyncio.open_connection(model.hostname, model.port)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(pump(reader, down, relay.lines), pump(up, writer, None))
        tasks.discard(task)

    server = await asyncio.start_server(serve, GATEWAY, 0)
    relay.url = f"http://{GATEWAY}:{server.sockets[0].getsockname()[1]}"
    yield relay
    server.close()
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.02)  # for the transports to close


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_commands_have_a_proxy_and_model_requests_none(
    tmp_path: Path, provider: Provider
) -> None:
    names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "NO_PROXY", "no_proxy")
    shown = " ".join(f"${name}" for name in names)
    with running_model() as model:
        async with relay_to(model.url) as relay:
            driver = open_driver(provider, make_setup(provider, tmp_path, relay.url))
            try:
                agent = await driver.spare()
                asked = (
                    f'[[tool:shell echo "{shown}" > seen; curl -s https://far.example/ || true]]'
                )
                outcome = await agent.prompt(Prompt(asked), Log())
            finally:
                await driver.close()
    assert outcome.stop_reason == "end_turn"
    seen = (tmp_path / "workspace" / "seen").read_text().split()
    assert seen == [relay.url] * 4 + [f"{GATEWAY},127.0.0.1,localhost"] * 2
    assert [line for line in relay.lines if line.startswith("CONNECT")] == [
        "CONNECT far.example:443 HTTP/1.1"
    ]
    own = [line for line in relay.lines if not line.startswith("CONNECT")]
    assert own
    assert all(line.split()[1].startswith(f"/{provider}") for line in own), own


def test_where_sandboxes_share_an_address_the_proxy_is_told_who_asks(tmp_path: Path) -> None:
    proxy = make_setup("claude", tmp_path, "http://127.0.0.1:8485").proxy
    assert proxy["https_proxy"] == "http://sandbox:hutch-placeholder@127.0.0.1:8485"
