"""What several modules do to a running service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from hutch.client import ClientError
from hutch_runtime.protocol import Provider
from tests.service import User

# What a process of each CLI has in its command line, and nothing else in the container.
AGENTS: dict[Provider, str] = {
    "claude": "stream-json",
    "codex": "app-server",
    "gemini": "--acp",
}
KILL = """
import json, os, pathlib, signal, sys
wanted, killed = json.load(sys.stdin).encode(), []
for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    pid = int(path.parent.name)
    try:
        if wanted in path.read_bytes() and pid != os.getpid():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
    except OSError:
        pass
print(json.dumps(killed))
"""


def kill_agents(user: User, provider: Provider) -> None:
    assert user.python(KILL, stdin=AGENTS[provider]), f"no {provider} agent was there to kill"


class Following:
    """A run that is streamed by another thread, as by another connection."""

    def __init__(self, user: User, provider: Provider, prompt: str, **options: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.broken: ClientError | None = None
        self._started = threading.Event()
        self._source: Iterator[dict[str, Any]] = user.client.run(provider, prompt, **options)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for event in self._source:
                self.events.append(event)
                if event["type"] != "queued":
                    self._started.set()
        except ClientError as error:
            self.broken = error

    @property
    def run_id(self) -> str:
        assert self._started.wait(30), "no event came"
        run_id: str = self.events[0]["run_id"]
        return run_id

    def last(self, *, within_s: float = 20) -> dict[str, Any]:
        self._thread.join(within_s)
        assert not self._thread.is_alive(), f"still running after {self.events[-1:]}"
        assert self.events[-1]["type"] == "run.finished"
        return self.events[-1]

    def breaks(self, *, within_s: float = 20) -> None:
        """Wait until the service has let go of the connection."""
        self._thread.join(within_s)
        assert self.broken is not None, "the stream did not break"


def check_log(events: list[dict[str, Any]]) -> None:
    """A whole log: no gap, one start, one end."""
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    kinds = [event["type"] for event in events]
    assert kinds.count("run.finished") == 1
    assert kinds[-1] == "run.finished"
    assert kinds.count("run.started") <= 1


def content(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the time: an event that was not stored when the API died is stamped anew."""
    return [{key: value for key, value in event.items() if key != "time"} for event in events]
