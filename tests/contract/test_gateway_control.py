"""What the orchestrator relies on in the gateway: the same of the fake and of the real process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from hutch.config import Settings
from hutch.errors import Unavailable
from hutch.gateway.base import FakeGateway, GatewayControl
from hutch.gateway.client import GatewayClient
from hutch.gateway.table import Entry, Route
from hutch.secrets import Secret

FOREIGN = "10.199.254.253"  # no interface of this machine has it


@dataclass
class Case:
    control: GatewayControl
    restart: Callable[[], Awaitable[None]]


def entry(name: str, *, incarnation: str = "inc_1", address: str = "127.0.0.2") -> Entry:
    return Entry(
        sandbox_id=f"sbx_{name}",
        incarnation=incarnation,
        address=address,
        user_id=f"user_{name}",
        placeholder=Secret("placeholder"),
        routes={"claude": Route("http://127.0.0.1:9", (("x-api-key", Secret("real-secret")),))},
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def launch(settings: Settings, host: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "hutch.gateway",
        "--host",
        host,
        env={
            **os.environ,
            "HUTCH_DATA_DIR": str(settings.data_dir),
            "HUTCH_GATEWAY_PORT": str(settings.gateway_port),
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(20):
        line = await process.stderr.readline()
    assert b"gateway.listening" in line, line + await process.stderr.read()
    return process


async def end(process: asyncio.subprocess.Process) -> bytes:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        _, said = await process.communicate()
    assert process.returncode == 0, said
    return said


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, gateway_port=free_port())


@pytest.fixture(params=["fake", "process"])
async def case(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Case]:
    if request.param == "fake":
        fake = FakeGateway()

        async def forget() -> None:
            fake.restart()

        yield Case(fake, forget)
        return
    process = await launch(settings, "127.0.0.1")

    async def again() -> None:
        nonlocal process
        await end(process)
        process = await launch(settings, "127.0.0.1")

    client = GatewayClient(settings.gateway_socket)
    yield Case(client, again)
    await client.close()
    said = await end(process)
    assert b"real-secret" not in said


async def test_entries_come_and_go(case: Case) -> None:
    health = await case.control.health()
    assert (health.entries, health.synced) == (0, False)
    await case.control.put(entry("a"))
    health = await case.control.health()
    assert (health.entries, health.synced) == (1, False)
    await case.control.put_table([entry("b"), entry("c", address="127.0.0.3")])
    health = await case.control.health()
    assert (health.entries, health.synced) == (2, True)
    await case.control.remove("sbx_b", "inc_0")
    assert (await case.control.health()).entries == 2
    for _ in range(2):
        await case.control.remove("sbx_b", "inc_1")
        assert (await case.control.health()).entries == 1
    await case.control.put(entry("d", address="127.0.0.3"))  # takes c's address
    assert (await case.control.health()).entries == 1
    await case.control.put_table([])
    assert (await case.control.health()).entries == 0


async def test_what_passed_can_be_asked_for(case: Case) -> None:
    await case.control.put_table([entry("a")])
    assert await case.control.exits() == {}
    assert await case.control.failure("sbx_a", "inc_1", 0.0) is None
    assert "hutch_gateway_sandboxes 1.0\n" in await case.control.metrics()


async def test_a_restart_shows_and_a_new_push_heals_it(case: Case) -> None:
    await case.control.put_table([entry("a")])
    before = await case.control.health()
    await case.restart()
    after = await case.control.health()
    assert after.boot_id != before.boot_id
    assert (after.entries, after.synced) == (0, False)
    await case.control.put_table([entry("a")])
    assert (await case.control.health()).entries == 1


async def test_nobody_there(settings: Settings) -> None:
    client = GatewayClient(settings.gateway_socket)
    with pytest.raises(Unavailable, match="does not answer"):
        await client.health()
    await client.close()


async def test_a_refused_table_does_not_quote_its_secrets(settings: Settings) -> None:
    process = await launch(settings, "127.0.0.1")
    client = GatewayClient(settings.gateway_socket)
    for address, value in (("127.0.0.2", "real\r\nsecret: x"), ("nowhere", "real-secret")):
        bad = Entry(
            "sbx_a", "inc_1", address, None, Secret("p"),
            {"claude": Route("http://127.0.0.1:9", (("x-api-key", Secret(value)),))},
        )  # fmt: skip
        with pytest.raises(Unavailable, match="refused") as refused:
            await client.put(bad)
        assert "real" not in str(refused.value)
        assert "secret" not in str(refused.value)
    await client.close()
    assert b"real" not in await end(process)


async def test_its_socket_is_private_and_a_second_one_does_not_take_over(
    settings: Settings,
) -> None:
    process = await launch(settings, "127.0.0.1")
    assert stat.S_IMODE(settings.gateway_socket.stat().st_mode) == 0o600
    with pytest.raises(AssertionError, match="cannot listen"):
        await launch(settings, "127.0.0.1")
    client = GatewayClient(settings.gateway_socket)
    assert (await client.health()).entries == 0
    await client.close()
    await end(process)
    assert not settings.gateway_socket.exists()


async def test_it_listens_before_its_address_exists(settings: Settings) -> None:
    process = await launch(settings, FOREIGN)
    await end(process)


async def test_it_is_found_at_its_port(settings: Settings) -> None:
    process = await launch(settings, "127.0.0.1")
    client = GatewayClient(settings.gateway_socket)
    await client.put_table([entry("a", address="127.0.0.1")])
    url = f"http://127.0.0.1:{settings.gateway_port}/claude/x"
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        assert response.status == 403  # it does not show the sandbox's placeholder
    await client.close()
    await end(process)
