"""``python -m bench.hundred``: a hundred users come, are put away, and come back to what they had.

Four at a time, with the real Claude Code under gVisor. Each gets a word to remember and
a file of their own, is hibernated, and is asked for both later. Prints what it took and what was
lost, and writes ``bench/results/hundred.json``.
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from hutch.config import Settings
from hutch.images.build import build
from tests.service import Service, User, running_service

USERS: Final = 100
AT_ONCE: Final = 4


@dataclass
class Guest:
    user: User
    word: str
    session: str = ""
    problems: list[str] = field(default_factory=list)
    took_s: dict[str, float] = field(default_factory=dict)

    def timed(self, what: str, do: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            return do()
        finally:
            self.took_s[what] = time.perf_counter() - began

    def come(self) -> None:
        run = self.timed("come", lambda: self.user.run("claude", f"the word is {self.word}"))
        self.session = run["session_id"]
        self.check(run["state"] == "succeeded", f"first run {run['error']}")
        self.user.shell("claude", f"echo {self.word} > mine", session_id=self.session)
        self.leave()

    def leave(self) -> None:
        stored = self.timed(
            "leave", lambda: self.user.client.call("POST", "/v1/container/hibernate")
        )
        self.check(stored["observed"] == "hibernated", f"not put away: {stored['reason']}")

    def return_(self) -> None:
        run = self.timed(
            "return", lambda: self.user.run("claude", "[[recall]]", session_id=self.session)
        )
        self.check(self.word in run["text"], f"the session forgot: {run['error']}")
        said = self.user.shell("claude", "cat mine", session_id=self.session)
        self.check(self.word in said, "the file is gone")
        self.leave()

    def check(self, holds: bool, problem: str) -> None:  # noqa: FBT001  (reads as a sentence)
        if not holds:
            self.problems.append(problem)


def main() -> int:
    console = Console()
    asyncio.run(build(Settings(), say=console.print))
    with (
        tempfile.TemporaryDirectory(prefix="hutch-bench-") as folder,
        running_service(
            Path(folder) / "data",
            ISOLATION="gvisor",
            IMAGE=Settings().image,
            PREWARM="claude",
        ) as service,
    ):
        results = _measure(service, console)
    path = Path(__file__).parent / "results" / "hundred.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    console.print(results)
    console.print(f"written to {path}")
    return 1 if results["lost"] else 0


def _measure(service: Service, console: Console) -> dict[str, Any]:
    began = time.perf_counter()
    guests = [Guest(service.make_user(), f"word{n:03}") for n in range(USERS)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for what in (Guest.come, Guest.return_):
            for n, done in enumerate([pool.submit(what, guest) for guest in guests]):
                done.result()
                console.print(f"{what.__name__} {n + 1}/{USERS}", end="\r")
    took = {
        what: round(statistics.median(guest.took_s[what] for guest in guests), 2)
        for what in ("come", "leave", "return")
    }
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
        "users": USERS,
        "at_once": AT_ONCE,
        "lost": [p for guest in guests for p in guest.problems],
        "median_s": took,
        "all_s": round(time.perf_counter() - began),
    }


if __name__ == "__main__":
    sys.exit(main())
