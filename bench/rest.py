"""``python -m bench.rest``: what it costs to put sandboxes to rest, and to wake them.

With the real engine under gVisor and the real CLIs. The times of a wake are those that a run's own
record gives (``sandbox_ms``: from the request until its sandbox was ready). Memory is what the
container's cgroup holds. Prints a table and writes ``bench/results/rest.json``.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from hutch.config import Settings
from hutch.images.build import build
from tests.service import Service, running_service

WAKES: Final = 10
HIBERNATIONS: Final = 5
STATE_MB: Final = 50
_WITHIN_S: Final = 120
_REST_S: Final = 2.0  # what was just done is over, and both sides start rested

FROZEN_AT_MOST_MS: Final = 100.0
BEYOND_CLAIM_AT_MOST_MS: Final = 800.0

# Half of it does not compress; the rest is 1,500 small files, as of a project.
FILL: Final = r"""
import json, os, pathlib
home, workspace = pathlib.Path.home(), pathlib.Path("/workspace")
(home / "random").write_bytes(os.urandom(10 << 20))
(workspace / "random").write_bytes(os.urandom(15 << 20))
for d in range(15):
    (workspace / f"d{d}").mkdir()
    for n in range(100):
        text = f"def f{n}(x):\n    return x * {n}\n\n\n" * 1000
        (workspace / f"d{d}" / f"f{n}.py").write_text(text[:17476])
print(json.dumps(None))
"""


def main() -> int:
    console = Console()
    asyncio.run(build(Settings(), say=console.print))
    with (
        tempfile.TemporaryDirectory(prefix="hutch-bench-") as folder,
        running_service(
            Path(folder) / "data",
            ISOLATION="gvisor",
            IMAGE=Settings().image,
            POOL_SIZE="1",
            FREEZE_AFTER_S="4",
            HIBERNATE_AFTER_S="0",
        ) as service,
    ):
        results = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": {"cores": os.cpu_count(), "swap": _has_swap(), "load": os.getloadavg()[0]},
            **_frozen(service),
            **_hibernated(service),
        }
    console.print(_table(results))
    path = Path(__file__).parent / "results" / "rest.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {path}")
    return 0


def _frozen(service: Service) -> dict[str, Any]:
    user = service.make_user()
    warm_mb = _until_warm(service)["stats"]["memory_bytes"] / 1e6
    run = user.run("claude", "hello")
    time.sleep(_REST_S)
    running_mb = user.client.container()["stats"]["memory_bytes"] / 1e6
    wakes, totals, frozen_mb = [], [], 0.0
    for _ in range(WAKES):
        _until(lambda: user.client.container()["observed"] == "frozen")
        time.sleep(_REST_S)  # for its memory to go, where it can
        frozen_mb = user.client.container()["stats"]["memory_bytes"] / 1e6
        run = user.run("claude", "hello", session_id=run["session_id"])
        wakes.append(run["timings"]["sandbox_ms"])
        totals.append(run["timings"]["total_ms"])
    user.client.call("DELETE", "/v1/container")
    return {
        "frozen": {
            "wake_ms": round(statistics.median(wakes), 1),
            "wake_max_ms": max(wakes),
            "prompt_ms": round(statistics.median(totals), 1),
        },
        "memory_mb": {
            "warm": round(warm_mb),
            "running": round(running_mb),
            "frozen": round(frozen_mb),
            "hibernated": 0,
        },
    }


def _hibernated(service: Service) -> dict[str, Any]:
    user = service.make_user()
    _until_warm(service)
    run = user.run("claude", "hello")
    user.python(FILL)
    claims, stores, wakes, prompts = [], [], [], []
    for _ in range(HIBERNATIONS):
        began = time.perf_counter()
        stored = user.client.call("POST", "/v1/container/hibernate")
        stores.append((time.perf_counter() - began) * 1000)
        claims.append(_claim(service))
        _until_warm(service)
        time.sleep(_REST_S)
        run = user.run("claude", "hello", session_id=run["session_id"])
        assert run["state"] == "succeeded", run
        wakes.append(run["timings"]["sandbox_ms"])
        prompts.append(run["timings"]["total_ms"])
    claim_ms, wake_ms = statistics.median(claims), statistics.median(wakes)
    return {
        "hibernated": {
            "state_mb": round(stored["snapshot"]["bytes"] / 1e6, 1),
            "stored_mb": round(stored["snapshot"]["stored_bytes"] / 1e6, 1),
            "store_ms": round(statistics.median(stores), 1),
            "claim_ms": round(claim_ms, 1),
            "wake_ms": round(wake_ms, 1),
            "beyond_claim_ms": round(wake_ms - claim_ms, 1),
            "prompt_ms": round(statistics.median(prompts), 1),
        }
    }


def _claim(service: Service) -> float:
    """A new user's, of a warm one."""
    other = service.make_user()
    _until_warm(service)
    time.sleep(_REST_S)
    run = other.run("claude", "hello")
    other.client.call("DELETE", "/v1/container")
    claim_ms: float = run["timings"]["sandbox_ms"]
    return claim_ms


def _until_warm(service: Service) -> dict[str, Any]:
    def warm() -> list[dict[str, Any]]:
        live = service.admin.call("GET", "/v1/admin/containers")["containers"]
        return [one for one in live if one["observed"] == "warm"]

    _until(lambda: bool(warm()))
    return warm()[0]


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + _WITHIN_S
    while not holds():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.1)


def _has_swap() -> bool:
    return "SwapTotal:             0 kB" not in Path("/proc/meminfo").read_text()


def _table(results: dict[str, Any]) -> Table:
    frozen, hibernated, memory = results["frozen"], results["hibernated"], results["memory_mb"]
    shown = Table(box=None, pad_edge=False)
    for column in ("", "measured", "asked"):
        shown.add_column(column, justify="left" if not column else "right")
    shown.add_row("wake from freeze, ms", f"{frozen['wake_ms']:g}", f"≤ {FROZEN_AT_MOST_MS:g}")
    shown.add_row("a prompt to a frozen one, ms", f"{frozen['prompt_ms']:g}", "")
    shown.add_row(f"put away {hibernated['state_mb']:g} MB, ms", f"{hibernated['store_ms']:g}", "")
    beyond = f"{hibernated['beyond_claim_ms']:g}"
    shown.add_row("wake, beyond the claim, ms", beyond, f"≤ {BEYOND_CLAIM_AT_MOST_MS:g}")
    shown.add_row("a prompt to it, ms", f"{hibernated['prompt_ms']:g}", "")
    for state, mb in memory.items():
        shown.add_row(f"memory, {state}, MB", str(mb), "")
    return shown


if __name__ == "__main__":
    sys.exit(main())
