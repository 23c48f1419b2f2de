"""``make bench``: bare CLIs on this machine against the same prompt through Hutch under gVisor.

Prints a table and writes ``bench/results/latest.json``. The model is the offline one, on loopback
for both sides, so that what is compared is everything but the model.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.measure import Inside, bare, through_hutch, wait_for_spare
from hutch.cli.demo import OFFLINE_KEY, demo_client
from hutch.cli.up import down, start
from hutch.config import Settings
from hutch.images.fetch import fetch_clis
from hutch.images.inputs import inputs
from hutch_runtime.protocol import PROVIDERS, Provider
from tests.offline_model.drive import Cli

ROUNDS: Final = 15
FIRST_ROUNDS: Final = 5
PAUSE_S: Final = 1.5  # lets the sandbox put a spare agent back, and both sides start rested

# The figures: next and first against bare, at most; what Hutch adds, in milliseconds.
NEXT_AT_MOST: Final[dict[Provider, float]] = {"claude": 0.15, "codex": 0.6, "gemini": 0.15}
FIRST_AT_MOST: Final[dict[Provider, float]] = {"claude": 0.45}
ADDED_AT_MOST_MS: Final = 8.0


def main() -> int:
    console = Console()
    os.environ["HUTCH_POOL_SIZE"] = "0"  # what is measured is a container made on demand
    with tempfile.TemporaryDirectory(prefix="hutch-bench-") as folder:
        settings = Settings(
            data_dir=Path(folder) / "data",
            port=18684,
            gateway_port=18685,
            offline_model_port=18686,
        )
        try:
            asyncio.run(fetch_clis(inputs()))  # the bare CLIs are the image's
            capabilities = start(settings, lambda text: console.print(text, markup=False))
            results = measure(settings, Path(folder), console)
        finally:
            down(settings, console)
    results["machine"] = {
        "cores": os.cpu_count(),
        "isolation": capabilities.isolation,
        "load_at_start": results.pop("load"),
    }
    console.print(table(results["providers"]))
    path = Path(__file__).parent / "results" / "latest.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {path}")
    return 0


def measure(settings: Settings, folder: Path, console: Console) -> dict[str, Any]:
    load = round(os.getloadavg()[0], 2)
    model = f"http://127.0.0.1:{settings.offline_model_port}"
    with demo_client(settings) as client:
        for provider in PROVIDERS:
            client.put_api_key(provider, OFFLINE_KEY)
            through_hutch(client, provider, None)  # makes the container, warms every cache
        inside = Inside(_container(client.container().incarnation, settings))
        providers = {}
        try:
            for provider in PROVIDERS:
                with console.status(f"measuring {provider} …"):
                    cli = Cli(provider, model, folder / provider)
                    providers[provider] = _measure_one(client, cli, inside, provider)
        finally:
            inside.close()
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": load,
        "providers": providers,
    }


def _measure_one(client: Any, cli: Cli, inside: Inside, provider: Provider) -> dict[str, Any]:
    bare(cli)
    inside.turn(provider)
    inside.turn(provider)
    bares: list[float] = []
    firsts: list[float] = []
    nexts: list[float] = []
    directs: list[float] = []
    version = ""
    for _ in range(FIRST_ROUNDS):
        bares.append(bare(cli))
        wait_for_spare(client, provider)
        time.sleep(PAUSE_S)
        ms, run = through_hutch(client, provider, None)
        firsts.append(ms)
        version = run["cli_version"]
    session = run["session_id"]
    time.sleep(PAUSE_S)
    wait_for_spare(client, provider)
    for _ in range(ROUNDS):
        directs.append(inside.turn(provider))
        nexts.append(through_hutch(client, provider, session)[0])
    bare_ms, next_ms = statistics.median(bares), statistics.median(nexts)
    first_ms, direct_ms = statistics.median(firsts), statistics.median(directs)
    return {
        "cli_version": version,
        "bare_ms": round(bare_ms, 1),
        "first_ms": round(first_ms, 1),
        "next_ms": round(next_ms, 1),
        "inside_ms": round(direct_ms, 1),
        "first_to_bare": round(first_ms / bare_ms, 3),
        "next_to_bare": round(next_ms / bare_ms, 3),
        "added_ms": round(next_ms - direct_ms, 1),
        "all_ms": {
            "bare": [round(x, 1) for x in bares],
            "first": [round(x, 1) for x in firsts],
            "next": [round(x, 1) for x in nexts],
            "inside": [round(x, 1) for x in directs],
        },
    }


def _container(incarnation: str, settings: Settings) -> str:
    return f"hutch-{settings.instance}-{incarnation}"


def table(providers: dict[Provider, dict[str, Any]]) -> Table:
    shown = Table(box=None, pad_edge=False, title="milliseconds, medians")
    for column in ("", "bare", "first", "ratio", "next", "ratio", "same agent inside", "added"):
        shown.add_column(column, justify="right")
    for provider, result in providers.items():
        shown.add_row(
            provider,
            f"{result['bare_ms']:.0f}",
            f"{result['first_ms']:.0f}",
            _judged(result["first_to_bare"], FIRST_AT_MOST.get(provider)),
            f"{result['next_ms']:.0f}",
            _judged(result["next_to_bare"], NEXT_AT_MOST[provider]),
            f"{result['inside_ms']:.0f}",
            _judged(result["added_ms"], ADDED_AT_MOST_MS),
        )
    return shown


def _judged(value: float, at_most: float | None) -> str:
    if at_most is None:
        return f"{value:g}"
    return f"{value:g} {'≤' if value <= at_most else '[red]>[/red]'} {at_most:g}"


if __name__ == "__main__":
    sys.exit(main())
