"""``python -m bench.gateway``: the gateway against Debian's Squid, doing the same at the same time.

Everything on loopback and in one run, in turns: bytes through CONNECT, and what a request takes
more than without anything between. Writes ``bench/results/gateway.json``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from hutch.cli.squid import Squid
from hutch.config import Settings
from hutch.gateway.client import GatewayClient
from hutch.gateway.table import Entry, HostRule, Route
from hutch.secrets import Secret

SANDBOX: Final = "127.0.0.2"
ROUNDS: Final = 7
REQUESTS: Final = 400  # a round
BULK: Final = 512 << 20  # bytes a connection and round
PARALLEL: Final = 4
SHARE_AT_LEAST: Final = 0.8  # of Squid's throughput
ADDED_AT_MOST_MS: Final = 1.0
_BUFFER: Final = 1 << 20


def main() -> int:
    console = Console()
    load = round(os.getloadavg()[0], 2)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_source())
        gateway = stack.enter_context(_gateway(source))
        squid = stack.enter_context(Squid())
        ways: dict[str, int] = {"gateway": gateway, "squid": squid.port}
        results = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": {"cores": os.cpu_count(), "load_at_start": load},
            "throughput": _throughput(ways, source),
            "latency": _latency(ways, source),
        }
    path = Path(__file__).parent / "results" / "gateway.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    console.print_json(json.dumps(results))
    console.print(f"written to {path}")
    return 0


def _throughput(ways: dict[str, int], source: int) -> dict[str, Any]:
    """MB/s through CONNECT, on one connection and on some at once."""
    figures: dict[str, Any] = {}
    for name, connections in (("one", 1), ("parallel", PARALLEL)):
        rates: dict[str, list[float]] = {way: [] for way in ("direct", *ways)}
        for _ in range(ROUNDS):
            rates["direct"].append(_rate(partial(_dial, source), connections))
            for way, port in ways.items():
                rates[way].append(_rate(partial(_connect, port, source), connections))
        medians = {way: statistics.median(found) for way, found in rates.items()}
        figures[name] = {
            "connections": connections,
            "mb_per_s": {way: round(rate) for way, rate in medians.items()},
            "to_squid": round(medians["gateway"] / medians["squid"], 2),
            "at_least": SHARE_AT_LEAST,
            "all": {way: [round(rate) for rate in found] for way, found in rates.items()},
        }
    return figures


def _rate(dial: Callable[[], socket.socket], connections: int) -> float:
    socks = [dial() for _ in range(connections)]
    began = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        moved = sum(pool.map(_drink, socks))
    elapsed = time.perf_counter() - began
    assert moved == connections * BULK, moved
    return moved / elapsed / 1e6


def _drink(sock: socket.socket) -> int:
    buffer, total = bytearray(_BUFFER), 0
    with sock:
        sock.sendall(b"%d\n" % BULK)
        while count := sock.recv_into(buffer):
            total += count
    return total


def _latency(ways: dict[str, int], source: int) -> dict[str, Any]:
    """Milliseconds of a small request on a kept connection, and of a new tunnel."""
    words = source + 1
    plain = f"GET http://127.0.0.1:{words}/x HTTP/1.1\r\nHost: 127.0.0.1:{words}\r\n\r\n".encode()
    route = b"GET /claude/x HTTP/1.1\r\nHost: gateway\r\nx-api-key: placeholder\r\n\r\n"
    direct = b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nx-api-key: placeholder\r\n\r\n"
    asked = {
        "direct": (words, direct),
        "route": (ways["gateway"], route),
        "plain_gateway": (ways["gateway"], plain),
        "plain_squid": (ways["squid"], plain),
    }
    socks = {name: _dial(port) for name, (port, _) in asked.items()}
    times: dict[str, list[float]] = {
        name: [] for name in (*asked, "tunnel_gateway", "tunnel_squid")
    }
    for _ in range(ROUNDS):
        for name, (_, request) in asked.items():
            times[name] += [_timed(socks[name], request) for _ in range(REQUESTS)]
        for way, port in ways.items():
            times[f"tunnel_{way}"] += [_timed_tunnel(port, source + 1) for _ in range(50)]
    for sock in socks.values():
        sock.close()
    medians = {name: statistics.median(found) for name, found in times.items()}
    added = medians["route"] - medians["direct"]
    return {
        "p50_ms": {name: round(value, 3) for name, value in medians.items()},
        "p99_ms": {
            name: round(statistics.quantiles(found, n=100)[98], 3) for name, found in times.items()
        },
        "added_p50_ms": round(added, 3),
        "at_most_ms": ADDED_AT_MOST_MS,
    }


def _timed(sock: socket.socket, request: bytes) -> float:
    began = time.perf_counter()
    sock.sendall(request)
    answer = b""
    while not answer.endswith(b"\r\n\r\nok"):
        data = sock.recv(65536)
        assert data, answer
        answer += data
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return (time.perf_counter() - began) * 1000


def _timed_tunnel(port: int, destination: int) -> float:
    began = time.perf_counter()
    _connect(port, destination).close()
    return (time.perf_counter() - began) * 1000


def _dial(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), source_address=(SANDBOX, 0), timeout=60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _connect(proxy: int, port: int) -> socket.socket:
    sock = _dial(proxy)
    sock.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += (data := sock.recv(65536))
        assert data, answer
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return sock


@contextlib.contextmanager
def _source() -> Iterator[int]:
    port = _free_port()
    with _process("bench.source", str(port)):
        _wait(port)
        _wait(port + 1)
        yield port


@contextlib.contextmanager
def _gateway(source: int) -> Iterator[int]:
    with tempfile.TemporaryDirectory(prefix="hutch-bench-") as folder:
        settings = Settings(data_dir=Path(folder), gateway_port=_free_port())
        environment = {
            "HUTCH_DATA_DIR": folder,
            "HUTCH_GATEWAY_PORT": str(settings.gateway_port),
            "HUTCH_EGRESS_NETWORKS": "127.0.0.0/8",
            # What it can, not what one sandbox may.
            "HUTCH_EGRESS_MB_PER_S": "0",
            "HUTCH_EGRESS_REQUESTS_PER_S": "0",
        }
        with _process("hutch.gateway", "--host", "127.0.0.1", **environment):
            _wait(settings.gateway_port)
            asyncio.run(_fill(settings, source))
            yield settings.gateway_port


async def _fill(settings: Settings, source: int) -> None:
    client = GatewayClient(settings.gateway_socket)
    entry = Entry(
        sandbox_id="sbx_bench",
        incarnation="inc_bench",
        address=SANDBOX,
        user_id="user_bench",
        placeholder=Secret("placeholder"),
        routes={
            "claude": Route(f"http://127.0.0.1:{source + 1}", (("x-api-key", Secret("a-key")),))
        },
        allow=(HostRule("127.0.0.1", source), HostRule("127.0.0.1", source + 1)),
    )
    await client.put_table([entry])
    await client.close()


@contextlib.contextmanager
def _process(*arguments: str, **environment: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def _wait(port: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on {port}")


def _free_port() -> int:
    """The next one is free as well."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with contextlib.suppress(OSError):
                second.bind(("127.0.0.1", port + 1))
                return port


if __name__ == "__main__":
    sys.exit(main())
