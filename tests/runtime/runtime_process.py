"""The runtime as a process of its own, spoken to over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shlex
import signal
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2

from hutch_runtime.protocol import PROVIDERS, Provider
from tests.clis import cli_argv

KEY = "the-runtime-key"
Event = dict[str, Any]


class Runtime:
    def __init__(self, http: httpx2.AsyncClient, process: asyncio.subprocess.Process) -> None:
        self.http = http
        self.process = process

    async def health(self) -> dict[str, Any]:
        answer = await self.http.get("/health")
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    async def ready(self) -> None:
        await until(lambda health: health["status"] == "ready", self)

    async def kill(self, agents: list[int]) -> None:
        """It and its agents at once, as when the container is killed."""
        for pid in agents:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self.process.kill()
        await self.process.wait()

    async def agents(self, state: str) -> list[dict[str, Any]]:
        return in_state(await self.health(), state)

    async def stream(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> AsyncGenerator[Event, None]:
        async with self.http.stream(method, path, json=body) as answer:
            assert answer.status_code == 200, await answer.aread()
            assert answer.headers["content-type"].startswith("text/event-stream")
            rest = b""
            async for part in answer.aiter_bytes():  # aiter_lines would end lines at U+2028 too
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    if line.startswith(b"data: "):
                        yield json.loads(line.removeprefix(b"data: "))

    def prompt(self, run_id: str, prompt: str, **more: Any) -> AsyncGenerator[Event, None]:
        path = f"/{more.pop('provider', 'claude')}"
        if more.keys() & {"options", "attachments"}:
            path += "/with-options"
        return self.stream("POST", path, {"run_id": run_id, "prompt": prompt, **more})

    async def run(self, run_id: str, prompt: str, **more: Any) -> list[Event]:
        """All events of a run, checked for what holds for every one."""
        events = [event async for event in self.prompt(run_id, prompt, **more)]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert {event["run_id"] for event in events} == {run_id}
        assert [event["type"] for event in events].count("run.finished") == 1
        assert events[-1]["type"] == "run.finished"
        assert [event for event in events if event["type"] == "unparsed"] == []
        return events

    async def follow(self, run_id: str, after: int = 0) -> list[Event]:
        return [event async for event in self.stream("GET", f"/runs/{run_id}/events?after={after}")]


def in_state(health: dict[str, Any], state: str) -> list[dict[str, Any]]:
    return [agent for agent in health["agents"] if agent["state"] == state]


async def until(wanted: Callable[[dict[str, Any]], object], runtime: Runtime) -> dict[str, Any]:
    """Its health, once that is as wanted; asking changes nothing in it."""
    while True:
        health = await runtime.health()
        if wanted(health):
            return health
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running_runtime(
    directory: Path, gateway_url: str, *, prewarm: str = "claude", key: str = KEY, **env: str
) -> AsyncIterator[Runtime]:
    """Ended by SIGTERM (if the test has not killed it), which it has to obey within seconds."""
    home, workspace = directory / "home", directory / "workspace"
    home.mkdir(exist_ok=True)
    workspace.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
        "HUTCH_RUNTIME_KEY_SHA256": hashlib.sha256(key.encode()).hexdigest(),
        "HUTCH_GATEWAY_URL": gateway_url,
        "HUTCH_PLACEHOLDER_KEY": "hutch-placeholder",
        "HUTCH_PREWARM": prewarm,
        "HUTCH_AGENT_PIDS": "0",  # it would count all processes of whoever runs the tests
        "HUTCH_WORKSPACE": str(workspace),
        "HUTCH_RUNTIME_HOST": "127.0.0.1",
        "HUTCH_RUNTIME_PORT": str(port),
        **{f"HUTCH_CLI_{name.upper()}": shlex.join(_argv(name)) for name in PROVIDERS},
        **env,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hutch_runtime", env=given, cwd=workspace
    )
    try:
        async with httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {key}"},
            timeout=50,
            trust_env=False,
        ) as http:
            runtime = Runtime(http, process)
            await _listening(runtime)
            yield runtime
    finally:
        if process.returncode is None:
            process.terminate()
        # SIGKILL only if the test itself has sent it.
        ended = await asyncio.wait_for(process.wait(), 8)
        assert ended in {0, -signal.SIGTERM, -signal.SIGKILL}


def _argv(provider: Provider) -> list[str]:
    try:
        return cli_argv(provider)
    except FileNotFoundError:  # this test may not need it; one that does will see it fail
        return [f"no-{provider}-here"]


async def _listening(runtime: Runtime) -> None:
    while True:
        try:
            await runtime.health()
            return
        except httpx2.ConnectError:
            assert runtime.process.returncode is None, "the runtime did not start"
            await asyncio.sleep(0.02)
