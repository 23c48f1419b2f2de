"""The three ways to have one prompt answered, each timed from outside."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from hutch.client import Client
from hutch_runtime.protocol import Provider
from tests.offline_model.drive import Cli

PROMPT = "Hi"


class Inside:
    """A process in the sandbox that prompts the CLIs itself."""

    def __init__(self, container: str) -> None:
        script = Path(__file__).with_name("inside.py").read_text()
        self._process = subprocess.Popen(
            ["docker", "exec", "-i", "-u", "app", container, "python3", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def turn(self, provider: Provider) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"provider": provider, "prompt": PROMPT}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert answer["stop_reason"] == "end_turn", answer
        return float(answer["ms"])

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(20)


def bare(cli: Cli) -> float:
    """One-shot on the host, from start to exit."""
    started = time.perf_counter()
    outcome = cli.run(PROMPT)
    elapsed = (time.perf_counter() - started) * 1000
    assert outcome.returncode == 0, outcome.output
    return elapsed


def through_hutch(
    client: Client, provider: Provider, session: str | None
) -> tuple[float, dict[str, Any]]:
    """``POST /v1/runs``, from the request to the whole answer."""
    body = {"provider": provider, "prompt": PROMPT, "session_id": session}
    started = time.perf_counter()
    run = client.call("POST", "/v1/runs", json=body)
    elapsed = (time.perf_counter() - started) * 1000
    assert run["state"] == "succeeded", run["error"]
    return elapsed, run


def wait_for_spare(client: Client, provider: Provider, *, within_s: float = 60) -> None:
    """Until the sandbox has an agent started ahead."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        agents = client.container().agents
        if any((a.provider, a.state) == (provider, "spare") for a in agents):
            return
        time.sleep(0.1)
    raise TimeoutError(f"no {provider} agent was ready within {within_s} s: {agents}")
