"""``python -m bench.newcomers``: what a claim takes, and what many users at once get.

Three measurements, each with its own conditions, in ``bench/results/newcomers.json``:

- ``claim``: twenty new users at once, twenty warm sandboxes, five times over; the engine, the
  runtimes and the gateway are the tests' fakes, so that only Hutch's own work is timed. The
  runtimes are another process, as in life.
- ``newcomer``: a new user's first prompt to claude from a warm container under gVisor, against
  ``claude -p`` on this host, one after the other.
- ``crowd``: thirty users who prompt at the same time, each with a session of their own, against
  thirty bare processes of the same CLIs at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console
from rich.table import Table

from bench.measure import bare
from hutch.app import Hutch, running
from hutch.config import Settings
from hutch.gateway.base import FakeGateway
from hutch.images.build import build
from hutch_runtime.protocol import PROVIDERS
from tests.offline_model.drive import Cli
from tests.orchestrator.runtime import ScriptedBackend, ScriptedRuntime
from tests.service import Service, User, running_service

AT_ONCE: Final = 20
CLAIM_ROUNDS: Final = 5
NEWCOMERS: Final = 7
CROWD: Final = 30
CROWD_TURNS: Final = 4
_WITHIN_S: Final = 300
_REST_S: Final = 2.0

CLAIM_P50_AT_MOST_MS: Final = 10.0
CLAIM_P99_AT_MOST_MS: Final = 50.0
NEWCOMER_AT_MOST: Final = 0.5  # of bare


def main() -> int:
    console = Console()
    asyncio.run(build(Settings(), say=console.print))
    with tempfile.TemporaryDirectory(prefix="hutch-bench-") as name:
        folder = Path(name)
        results = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
            "claim": _claim_times(folder / "claims"),
            "newcomer": _newcomers(folder),
            "crowd": _crowd(folder),
        }
    console.print(_table(results))
    path = Path(__file__).parent / "results" / "newcomers.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {path}")
    return 0


def _claim_times(folder: Path) -> dict[str, Any]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as in `hutch serve`
        return runner.run(_claims(folder))


async def _claims(folder: Path) -> dict[str, Any]:
    async with _faked(folder) as hutch:
        took: list[float] = []
        for number in range(CLAIM_ROUNDS):
            users = [
                (await hutch.accounts.create_user(f"user {number} {n}", "free")).id
                for n in range(AT_ONCE)
            ]
            await _until_warm(hutch)
            took += await asyncio.gather(*(_claim(hutch, user) for user in users))
            for user in users:
                await hutch.sandboxes.destroy(user)
    return {
        "at_once": AT_ONCE,
        "claims": len(took),
        "p50_ms": round(statistics.median(took), 1),
        "p99_ms": round(statistics.quantiles(took, n=100)[98], 1),
    }


@contextlib.asynccontextmanager
async def _faked(folder: Path) -> AsyncIterator[Hutch]:
    image = str(Settings.model_fields["image"].default)  # the fake's own, whatever the shell says
    settings = Settings(data_dir=folder, image=image, pool_size=AT_ONCE, memory_reserve_mb=0)
    with _runtimes() as port:
        async with running(
            settings,
            backend=ScriptedBackend(port, settings.instance),
            gateway_control=FakeGateway(),
        ) as hutch:
            gc.collect()
            gc.freeze()  # as `hutch serve` does
            yield hutch


@contextlib.contextmanager
def _runtimes() -> Iterator[int]:
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_serve_runtimes, args=(theirs,))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()


def _serve_runtimes(parent: Connection) -> None:
    async def serve() -> None:
        async with ScriptedRuntime().serving() as port:
            parent.send(port)
            await asyncio.to_thread(parent.recv)

    asyncio.run(serve())


async def _until_warm(hutch: Hutch) -> None:
    async with asyncio.timeout(_WITHIN_S):
        while sum(s.observed == "warm" for s in await hutch.sandboxes.all()) < AT_ONCE:
            hutch.driver.wake("pool")
            await asyncio.sleep(0.1)


async def _claim(hutch: Hutch, user_id: str) -> float:
    began = time.perf_counter()
    await hutch.sandboxes.ensure(user_id)
    return (time.perf_counter() - began) * 1000


def _newcomers(folder: Path) -> dict[str, Any]:
    with _service(folder / "newcomers", POOL_SIZE="1") as service:
        cli = Cli("claude", service.model.url, folder / "home")
        bare(cli)
        bares, firsts, claims = [], [], []
        for _ in range(NEWCOMERS):
            user = service.make_user()
            _until(lambda: _warm(service))
            time.sleep(_REST_S)
            bares.append(bare(cli))
            began = time.perf_counter()
            run = user.run("claude", "Hi")
            firsts.append((time.perf_counter() - began) * 1000)
            assert run["state"] == "succeeded", run
            claims.append(run["timings"]["sandbox_ms"])
            user.client.call("DELETE", "/v1/container")
    bare_ms, first_ms = statistics.median(bares), statistics.median(firsts)
    return {
        "bare_ms": round(bare_ms, 1),
        "first_ms": round(first_ms, 1),
        "first_to_bare": round(first_ms / bare_ms, 3),
        "claim_ms": round(statistics.median(claims), 1),
    }


def _crowd(folder: Path) -> dict[str, Any]:
    """Each round of turns is asked for by all at once. What starts an agent is not counted for
    Hutch, whose agents live on, and is for a bare CLI, which starts for each prompt.
    """
    with _service(folder / "crowd", PREWARM="", POOL_SIZE="0") as service:
        users = [service.make_user() for _ in range(CROWD)]
        providers = [PROVIDERS[n % len(PROVIDERS)] for n in range(CROWD)]
        with ThreadPoolExecutor(CROWD) as pool:
            firsts = list(pool.map(_first, users, providers))
            ours = _rounds(
                pool,
                [
                    lambda user=user, first=first: _turn(user, first)  # type: ignore[misc]  # the names are bound here
                    for user, first in zip(users, firsts, strict=True)
                ],
            )
            clis = [
                Cli(provider, service.model.url, folder / f"home{n}")
                for n, provider in enumerate(providers)
            ]
            theirs = _rounds(pool, [lambda cli=cli: bare(cli) for cli in clis])  # type: ignore[misc]  # the same
    return {
        "users": CROWD,
        "turns": CROWD * CROWD_TURNS,
        "hutch": ours,
        "bare": theirs,
        "throughput_to_bare": round(ours["per_s"] / theirs["per_s"], 2),
        "p95_to_bare": round(ours["p95_ms"] / theirs["p95_ms"], 3),
    }


def _first(user: User, provider: str) -> dict[str, Any]:
    run = user.run(provider, "Hi")
    assert run["state"] == "succeeded", run
    return run


def _turn(user: User, first: dict[str, Any]) -> float:
    began = time.perf_counter()
    run = user.run(first["provider"], "Hi", session_id=first["session_id"])
    assert run["state"] == "succeeded", run
    return (time.perf_counter() - began) * 1000


def _rounds(pool: ThreadPoolExecutor, turns: list[Callable[[], float]]) -> dict[str, float]:
    began = time.perf_counter()
    took = [ms for _ in range(CROWD_TURNS) for ms in list(pool.map(lambda turn: turn(), turns))]
    return {
        "per_s": round(len(took) / (time.perf_counter() - began), 2),
        "p50_ms": round(statistics.median(took), 1),
        "p95_ms": round(statistics.quantiles(took, n=20)[18], 1),
    }


@contextlib.contextmanager
def _service(folder: Path, **overrides: str) -> Any:
    with running_service(folder, ISOLATION="gvisor", IMAGE=Settings().image, **overrides) as made:
        yield made


def _warm(service: Service) -> bool:
    live = service.admin.call("GET", "/v1/admin/containers")["containers"]
    return any(one["observed"] == "warm" for one in live)


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + _WITHIN_S
    while not holds():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.1)


def _table(results: dict[str, Any]) -> Table:
    claim, newcomer, crowd = results["claim"], results["newcomer"], results["crowd"]
    shown = Table(box=None, pad_edge=False)
    for column in ("", "measured", "asked"):
        shown.add_column(column, justify="left" if not column else "right")
    shown.add_row("claim at 20-way, p50, ms", f"{claim['p50_ms']:g}", f"≤ {CLAIM_P50_AT_MOST_MS:g}")
    shown.add_row("claim at 20-way, p99, ms", f"{claim['p99_ms']:g}", f"≤ {CLAIM_P99_AT_MOST_MS:g}")
    ratio = f"{newcomer['first_to_bare']:g}"
    shown.add_row("a newcomer's first claude prompt ÷ bare", ratio, f"≤ {NEWCOMER_AT_MOST:g}")
    shown.add_row("its claim, ms", f"{newcomer['claim_ms']:g}", "")
    for side in ("hutch", "bare"):
        line = crowd[side]
        shown.add_row(f"30 at once, {side}: turns a second", f"{line['per_s']:g}", "")
        shown.add_row(f"30 at once, {side}: p95, ms", f"{line['p95_ms']:g}", "")
    return shown


if __name__ == "__main__":
    sys.exit(main())
