"""CONNECT: what may be reached, what is dialled, and how bytes pass once it is."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from hutch.config import Settings
from hutch.gateway.names import authority, host_name, written
from hutch.gateway.relay import relay
from hutch.gateway.table import HostRule
from tests.gateway.conftest import Names, Setup
from tests.gateway.exits import Streams, an_exit, that_works

SANDBOX = "127.0.0.2"
ANY = "0.0.0.0"  # noqa: S104 - on some machines it leads to oneself
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def destination(serve: Serve, host: str = "127.0.0.1") -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await serve(reader, writer)
        tasks.discard(task)
        writer.close()

    server = await asyncio.start_server(one, host, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.sleep(0.02)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def allow(setup: Setup, *rules: tuple[str, int]) -> None:
    await setup.control.put(setup.entry(SANDBOX, allow=[HostRule(h, p) for h, p in rules]))


async def test_bytes_pass_as_they_come(setup: Setup) -> None:
    async with destination(echo) as port:
        await allow(setup, ("127.0.0.1", port))
        head, reader, writer = await setup.tunnel(SANDBOX, f"127.0.0.1:{port}", early=b"early ")
        assert head == b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert await reader.readexactly(6) == b"early "
        for _ in range(3):
            writer.write(b"ping")
            async with asyncio.timeout(2):
                assert await reader.readexactly(4) == b"ping"
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


async def test_a_server_may_speak_first(setup: Setup) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        assert await reader.readline() == b"quit\r\n"

    async with destination(greet) as port:
        await allow(setup, ("127.0.0.1", port))
        _, reader, writer = await setup.tunnel(SANDBOX, f"127.0.0.1:{port}")
        assert await reader.readline() == b"220 hello\r\n"
        writer.write(b"quit\r\n")
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("ends", ["sandbox", "destination"])
async def test_half_a_connection_may_end(setup: Setup, ends: str) -> None:
    async def after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if ends == "sandbox":
            assert await reader.read() == b"a question"
            writer.write(b"an answer")
        else:
            writer.write(b"an answer")
            writer.write_eof()
            assert await reader.read() == b"a question"
            asked.set()

    asked = asyncio.Event()
    async with destination(after_the_end) as port:
        await allow(setup, ("127.0.0.1", port))
        _, reader, writer = await setup.tunnel(SANDBOX, f"127.0.0.1:{port}")
        if ends == "sandbox":
            writer.write(b"a question")
            writer.write_eof()
            assert await reader.read() == b"an answer"
        else:
            assert await reader.read() == b"an answer"
            writer.write(b"a question")
            writer.write_eof()
            async with asyncio.timeout(2):
                await asked.wait()
        writer.close()


async def test_32_mb_each_way_against_a_slow_reader(setup: Setup) -> None:
    data = os.urandom(32 << 20)

    async def slow_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)  # the sandbox has filled every buffer by then
        await echo(reader, writer)

    async with destination(slow_echo) as port:
        await allow(setup, ("127.0.0.1", port))
        with capture_logs() as logs:
            _, reader, writer = await setup.tunnel(SANDBOX, f"127.0.0.1:{port}")

            async def send() -> None:
                for start in range(0, len(data), 1 << 20):
                    writer.write(data[start : start + (1 << 20)])
                    await writer.drain()
                writer.write_eof()

            sending = asyncio.ensure_future(send())
            await asyncio.sleep(0.3)
            digest = hashlib.sha256()
            while chunk := await reader.read(1 << 20):
                digest.update(chunk)
            await sending
            writer.close()
            await asyncio.sleep(0.05)
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()
    (line,) = logs
    assert (line["kind"], line["host"], line["status"]) == ("connect", f"127.0.0.1:{port}", 200)
    assert line["bytes_up"] == line["bytes_down"] == len(data)
    assert (line["user"], line["exit"]) == ("user_a", None)


async def test_a_broken_connection_does_not_end_like_a_whole_one(setup: Setup) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"half")
        await reader.read(1)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with destination(reset) as port:
        await allow(setup, ("127.0.0.1", port))
        _, reader, writer = await setup.tunnel(SANDBOX, f"127.0.0.1:{port}")
        assert await reader.readexactly(4) == b"half"
        writer.write(b"go")
        with pytest.raises(ConnectionError):
            await reader.read()
        writer.close()


async def test_what_is_not_allowed_is_refused_with_what_to_do(setup: Setup) -> None:
    async with destination(echo) as port:
        await allow(setup, ("127.0.0.1", port + 1), ("*.example.org", 443))
        for place in (
            f"127.0.0.1:{port}", "example.org:443", "notexample.org:443", "github.com:443",
            "x.example.org:80", "a-key.attacker.example:443",
        ):  # fmt: skip
            head, reader, writer = await setup.tunnel(SANDBOX, place)
            assert head.startswith(b"HTTP/1.1 403 hutch gateway: " + place.encode()), head
            body = (await reader.read()).decode()
            assert f'PUT /v1/network {{"allow": ["{place}"]}}' in body
            assert "HUTCH_EGRESS_ALLOW" in body
            writer.close()
    for place in ("0x7f000001:80", "2130706433:80", "127.1:80", "0177.0.0.1:80", "1.2.3:80",
                  "exa%6dple.org:443", "[::1%25eth0]:443", "[fe80::1%eth0]:80", "::1:443",
                  "a@b:443", "example.org", "example.org:", "example.org:0", "example.org:65536",
                  "example.org:+443", "example.org:0443", "-a.example:443", "a..b:443", ":443",
                  "http://example.org:443", "/claude/x"):  # fmt: skip
        head, _, writer = await setup.tunnel(SANDBOX, place)
        assert head.startswith(b"HTTP/1.1 400 "), (place, head)
        writer.close()


async def test_a_refused_name_is_not_even_resolved(setup: Setup, names: Names) -> None:
    _, _, writer = await setup.tunnel(SANDBOX, "my-secret.attacker.example:443")
    writer.close()
    assert names.asked == []


@pytest.mark.parametrize("place", ["github.test:P", "GitHub.Test.:P", "gItHuB.tEsT:P"])
async def test_a_names_spellings_are_one(setup: Setup, names: Names, place: str) -> None:
    async with destination(echo) as port:
        names.answers["github.test"] = [["127.0.0.1"]]
        await allow(setup, ("github.test", port))
        head, _, writer = await setup.tunnel(SANDBOX, place.replace("P", str(port)))
        assert head.startswith(b"HTTP/1.1 200")
        writer.close()
    assert names.asked == ["github.test"]


@pytest.fixture
def closed_network(settings: Settings) -> Settings:
    settings.egress_networks = ("127.0.0.9/32",)
    return settings


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"], ["10.0.0.1"], ["172.16.5.5"], ["192.168.1.1"], ["169.254.169.254"],
        ["100.100.100.200"], ["168.63.129.16"], [ANY], ["224.0.0.1"], ["255.255.255.255"],
        ["192.0.0.192"], ["198.18.0.1"], ["::1"], ["::"], ["fe80::1%eth0"], ["fd00:ec2::254"],
        ["::ffff:127.0.0.1"], ["::ffff:169.254.169.254"], ["::127.0.0.1"], ["64:ff9b::7f00:1"],
        ["64:ff9b:1::a00:1"], ["2002:7f00:1::"], ["2001:0:4136:e378:8000:63bf:3fff:fdd2"],
        ["ff02::1"], ["2001:db8::1"], ["fec0::1"], ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.9", "10.0.0.1"], ["not an address"],
    ],
)  # fmt: skip
async def test_no_name_leads_inside(
    closed_network: Settings, setup: Setup, names: Names, addresses: list[str]
) -> None:
    assert closed_network.egress_networks
    names.answers["trap.example"] = [addresses]
    await allow(setup, ("trap.example", 80), *((a, 80) for a in addresses if " " not in a))
    head, _, writer = await setup.tunnel(SANDBOX, "trap.example:80")
    assert head.split()[1] in {b"403", b"502"}, head
    assert b"not on the open internet" in head or addresses == ["not an address"]
    writer.close()
    async with (
        setup.session(SANDBOX) as http,
        http.get("http://trap.example/", proxy=setup.base) as response,
    ):
        assert response.status in {403, 502}


async def test_the_address_that_was_checked_is_the_one_that_is_dialled(
    closed_network: Settings, setup: Setup, names: Names
) -> None:
    """DNS rebinding: a name that is somewhere else the second time."""
    asked = []

    async def here(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer.get_extra_info("sockname")[0])

    assert closed_network.egress_networks == ("127.0.0.9/32",)
    async with destination(here, ANY) as port:
        names.answers["rebind.example"] = [["127.0.0.9"], ["127.0.0.1"]]
        await allow(setup, ("rebind.example", port))
        head, _, writer = await setup.tunnel(SANDBOX, f"rebind.example:{port}")
        assert head.startswith(b"HTTP/1.1 200")
        writer.close()
        head, _, writer = await setup.tunnel(SANDBOX, f"rebind.example:{port}")
        assert head.startswith(b"HTTP/1.1 403")
        writer.close()
    # Once for each request, not once to check and once more to dial.
    assert names.asked == ["rebind.example"] * 2
    assert asked == ["127.0.0.9"]


@pytest.mark.parametrize("own", ["127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1"])
async def test_the_servers_own_address_is_refused_though_it_is_public(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    monkeypatch.setattr("hutch.gateway.addresses._CLOSED", ())
    setup.gateway._gate.check._opened = ()
    place = written(host_name(f"[{own}]" if ":" in own else own), 80)
    host, port = authority(place)
    await allow(setup, (host, port))
    head, _, writer = await setup.tunnel(SANDBOX, place)
    assert b"403" in head
    assert b"is this server itself" in head
    writer.close()


async def test_without_a_user_there_is_no_way_out(setup: Setup) -> None:
    async with destination(echo) as port:
        warm = setup.entry(SANDBOX, None, allow=[HostRule("127.0.0.1", port)])
        await setup.control.put(warm)
        head, _, writer = await setup.tunnel(SANDBOX, f"127.0.0.1:{port}")
        assert b"403" in head
        assert b"has no user yet" in head
        writer.close()


async def test_a_tunnel_ends_with_its_sandbox(setup: Setup) -> None:
    async with destination(echo) as port:
        for end in ("remove", "replace"):
            await allow(setup, ("127.0.0.1", port))
            _, reader, writer = await setup.tunnel(SANDBOX, f"127.0.0.1:{port}")
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            if end == "remove":
                await setup.control.remove("sbx_a", "inc_of_sbx_a")
            else:
                await setup.control.put(setup.entry(SANDBOX, incarnation="inc_2"))
            async with asyncio.timeout(2):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()


async def test_a_tunnel_ends_with_the_exit_that_it_leads_through(setup: Setup) -> None:
    """It may be somebody else's in a moment."""
    async with (
        destination(echo) as port,
        an_exit(that_works, "ext_1") as first,
        an_exit(that_works, "ext_2") as second,
    ):
        allowed = [HostRule("127.0.0.1", port)]
        for after in (second.proxy, None):
            await setup.control.put(setup.entry(SANDBOX, leaves=first.proxy, allow=allowed))
            _, reader, writer = await setup.tunnel(SANDBOX, f"127.0.0.1:{port}")
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            await setup.control.put(setup.entry(SANDBOX, leaves=after, allow=allowed))
            async with asyncio.timeout(2):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()


async def test_an_exit_that_changes_while_it_is_dialled_opens_no_tunnel(setup: Setup) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(streams: Streams, head: bytes) -> None:
        asked.set()
        await go_on.wait()
        await that_works(streams, head)

    async with destination(echo) as port, an_exit(slowly) as slow:
        allowed = [HostRule("127.0.0.1", port)]
        await setup.control.put(setup.entry(SANDBOX, leaves=slow.proxy, allow=allowed))
        opening = asyncio.create_task(setup.tunnel(SANDBOX, f"127.0.0.1:{port}"))
        await asked.wait()
        await setup.control.remove("sbx_a", "inc_of_sbx_a")
        go_on.set()
        head, _, writer = await opening
        assert b" 503 " in head.splitlines()[0]
        writer.close()


async def test_a_direct_tunnel_ends_when_there_is_no_way_out_any_more(setup: Setup) -> None:
    async with destination(echo) as port:
        await allow(setup, ("127.0.0.1", port))
        _, reader, writer = await setup.tunnel(SANDBOX, f"127.0.0.1:{port}")
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        await setup.control.put(replace(setup.entry(SANDBOX), egress="closed"))
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


async def test_a_change_of_rules_spares_open_tunnels(setup: Setup) -> None:
    async with destination(echo) as port:
        await allow(setup, ("127.0.0.1", port))
        _, reader, writer = await setup.tunnel(SANDBOX, f"127.0.0.1:{port}")
        await allow(setup)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()


async def test_an_idle_tunnel_is_closed_and_a_busy_one_is_not(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "__kwdefaults__", {"idle_s": 0.5})
    async with destination(echo) as port:
        await allow(setup, ("127.0.0.1", port))
        _, reader, writer = await setup.tunnel(SANDBOX, f"127.0.0.1:{port}")
        for _ in range(5):
            await asyncio.sleep(0.2)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        began = time.perf_counter()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        assert 0.3 < time.perf_counter() - began < 2
        writer.close()


async def test_no_tunnel_outlives_the_longest_run(setup: Setup) -> None:
    setup.gateway._gate.total_s = 0.5
    async with destination(echo) as port:
        await allow(setup, ("127.0.0.1", port))
        _, reader, writer = await setup.tunnel(SANDBOX, f"127.0.0.1:{port}")
        with contextlib.suppress(ConnectionError, RuntimeError):  # RuntimeError: uvloop, on write
            async with asyncio.timeout(3):
                while True:
                    writer.write(b"x")
                    if not await reader.read(1):
                        break
                    await asyncio.sleep(0.05)
        writer.close()


@pytest.mark.parametrize("connections", [1, 4])
async def test_a_rate_cap_holds_for_all_connections_together(
    setup: Setup, connections: int
) -> None:
    total = 2 << 20

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(total // connections))
        await writer.drain()

    setup.gateway._gate.seats._mb_per_s = 2.0
    async with destination(pour) as port:
        await setup.control.remove("sbx_a", "inc_of_sbx_a")
        await allow(setup, ("127.0.0.1", port))
        began = time.perf_counter()
        tunnels = [await setup.tunnel(SANDBOX, f"127.0.0.1:{port}") for _ in range(connections)]
        bodies = await asyncio.gather(*(reader.read() for _, reader, _ in tunnels))
        elapsed = time.perf_counter() - began
        for _, _, writer in tunnels:
            writer.close()
    assert sum(map(len, bodies)) == total
    assert 0.5 < elapsed < 2.5
