"""``python -m bench.adoption``: how long a start takes that finds containers from before.

Real containers with the real runtime, but without agents and under runc, so that a hundred fit into
4 GB; what is measured is what the orchestrator and the engine do, which is the same for all. Writes
``bench/results/adoption.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from hutch.app import Hutch, running
from hutch.backends.open import open_backend
from hutch.config import Settings
from hutch.gateway.base import FakeGateway

AT_MOST_S: Final = 2.0
STARTS: Final = 5
_AT_ONCE: Final = 4


async def measure(settings: Settings, containers: int) -> dict[str, Any]:
    gateway = FakeGateway()
    async with running(settings, gateway_control=gateway) as hutch:
        users = await _make(hutch, containers)
        before = await _handles(hutch)
    ready, adopted = [], []
    for _ in range(STARTS):
        gateway.restart()
        began = time.monotonic()
        async with running(settings, gateway_control=gateway) as hutch:
            ready.append(time.monotonic() - began)
            # Each could be given a prompt now.
            await asyncio.gather(*(hutch.sandboxes.ensure(user) for user in users))
            adopted.append(time.monotonic() - began)
            assert await _handles(hutch) == before, "a container was made anew"
    return {
        "containers": containers,
        "cores": os.cpu_count(),
        "load_at_end": round(os.getloadavg()[0], 2),
        "api_ready_s": [round(s, 2) for s in ready],
        "all_adopted_s": [round(s, 2) for s in adopted],
        "at_most_s": AT_MOST_S,
    }


async def _make(hutch: Hutch, containers: int) -> list[str]:
    """Their users."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int) -> str:
        async with gate:
            user = await hutch.accounts.create_user(f"user{number}", "free")
            await hutch.sandboxes.ensure(user.id)
            return user.id

    return await asyncio.gather(*(one(number) for number in range(containers)))


async def _handles(hutch: Hutch) -> set[tuple[str | None, str]]:
    return {(s.handle, s.observed) for s in await hutch.sandboxes.all()}


async def run(containers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="hutch-bench-") as folder:
        settings = Settings(
            data_dir=Path(folder),
            isolation="runc",
            prewarm=(),
            pool_size=0,
            freeze_after_s=0,
            hibernate_after_s=0,
            max_containers=containers,
            memory_reserve_mb=0,
        )
        backend = open_backend(settings)
        try:
            return await measure(settings, containers)
        finally:
            await backend.cleanup()
            await backend.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.adoption", description=__doc__)
    parser.add_argument("--containers", type=int, default=100)
    results = asyncio.run(run(parser.parse_args().containers))
    path = Path(__file__).parent / "results" / "adoption.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    sys.stdout.write(f"{json.dumps(results)}\nwritten to {path.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
