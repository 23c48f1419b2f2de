"""``make chaos``: kill everything, again and again, and see whether anything was lost.

With an engine of its own, which is killed as well. The same seed plans the same kills; what they
meet depends on the machine. Writes ``bench/results/chaos-SEED.json``; ends with 1 if the auditor
found anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from chaos.audit import KINDS
from chaos.own_engine import OwnEngine
from chaos.storm import Outcome, Plan, weather
from hutch.config import Settings
from hutch.images.build import build

RESULTS = Path(__file__).parents[1] / "bench" / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))  # noqa: S311  a schedule
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--mean-s", type=float, default=4.0, help="seconds between kills")
    parser.add_argument("--minutes", type=float, default=60, help="end the schedule by then")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--machines-engine", action="store_true", help="never kill the engine")
    parser.add_argument("--evidence", type=Path, help="keep all that was seen, in this file")
    arguments = parser.parse_args()
    console = Console()
    console.print(f"seed {arguments.seed}")
    image = Settings().image
    asyncio.run(build(Settings(), say=lambda text: console.print(text, markup=False)))
    plan = Plan(
        seed=arguments.seed,
        kills=arguments.kills,
        users=arguments.users,
        mean_s=arguments.mean_s,
        minutes=arguments.minutes,
        image=image,
        database=arguments.database,
    )
    with tempfile.TemporaryDirectory(prefix="hutch-chaos-") as folder:
        if arguments.machines_engine:
            outcome = weather(plan, Path(folder) / "data", engine=None)
        else:
            outcome = _with_own_engine(plan, Path(folder), console)
    if arguments.evidence:
        arguments.evidence.write_text(outcome.evidence.to_json())
    report = outcome.report()
    report["cores"] = os.cpu_count()
    console.print(table(outcome))
    path = RESULTS / f"chaos-{plan.seed}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    console.print(f"written to {path}")
    return 1 if outcome.findings else 0


def _with_own_engine(plan: Plan, folder: Path, console: Console) -> Outcome:
    engine = OwnEngine(folder / "engine", live_restore=True)
    engine.start()
    try:
        os.environ["DOCKER_HOST"] = engine.host  # for the `docker` of tests/service.py
        console.print("loading the image into an engine of our own …")
        engine.load(plan.image)
        return weather(plan, folder / "data", engine=engine)
    finally:
        del os.environ["DOCKER_HOST"]
        engine.stop()


def table(outcome: Outcome) -> Table:
    report = outcome.report()
    shown = Table(box=None, pad_edge=False, title=f"seed {outcome.plan.seed}", show_header=False)
    for name in ("kills", "prompts", "requests_broken_and_repeated", "events"):
        shown.add_row(name.replace("_", " "), str(report[name]))
    for group in ("kills_by_victim", "runs_by_end", "sandboxes_by_end"):
        for name, count in report[group].items():
            shown.add_row(f"  {name}", str(count))
    for kind in KINDS:
        count = report[kind]
        shown.add_row(kind, f"[green]{count}[/green]" if not count else f"[red]{count}[/red]")
    for finding in report["findings"][:20]:
        shown.add_row("", finding)
    return shown


if __name__ == "__main__":
    sys.exit(main())
