from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from pydantic import SecretStr

from hutch.api.app import create_app
from hutch.api.guard import guarded
from hutch.api.heads import BoundedHeads
from hutch.app import Hutch, running
from hutch.clock import Clock, SystemClock
from hutch.config import Settings
from hutch.gateway.base import FakeGateway
from hutch.runs.models import LogEntry, Run
from hutch.runs.service import NewRun
from tests.orchestrator.runtime import ScriptedBackend, ScriptedRuntime

KEY = "test-key-of-the-user-7421"


@dataclass
class World:
    """What outlives an orchestrator: the machine around it."""

    settings: Settings
    runtime: ScriptedRuntime
    backend: ScriptedBackend
    gateway: FakeGateway
    clock: Clock = field(default_factory=SystemClock)

    @asynccontextmanager
    async def orchestrator(self) -> AsyncIterator[Hutch]:
        async with running(
            self.settings,
            backend=self.backend,
            gateway_control=self.gateway,
            clock=self.clock,
        ) as hutch:
            yield hutch


@pytest.fixture
async def world(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    image = str(Settings.model_fields["image"].default)  # the fake's own, whatever the shell says
    settings = Settings(
        data_dir=tmp_path, database_url=SecretStr(database_url), image=image, pool_size=0
    )
    runtime = ScriptedRuntime()
    async with runtime.serving() as port:
        backend = ScriptedBackend(port, settings.instance)
        yield World(settings, runtime, backend, FakeGateway())


@pytest.fixture
async def hutch(world: World) -> AsyncIterator[Hutch]:
    async with world.orchestrator() as built:
        yield built


@pytest.fixture
async def user_id(hutch: Hutch) -> str:
    return await new_user(hutch, "someone")


async def new_user(hutch: Hutch, name: str) -> str:
    user = await hutch.accounts.create_user(name, "free")
    for provider in ("claude", "codex", "gemini"):
        await hutch.vault.put(user.id, provider, "api_key", KEY)
    return user.id


async def run_to_end(hutch: Hutch, user_id: str, prompt: str = "hello there") -> Run:
    run = await hutch.runs.submit(user_id, NewRun("claude", prompt))
    return await hutch.runs.finished(user_id, run.id)


async def log_of(hutch: Hutch, run: Run, after: int = 0) -> list[LogEntry]:
    entries = await hutch.runs.events(run.user_id, run.id, after=after)
    return [entry async for entry in entries]


class Api:
    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url = url
        self.headers: Mapping[str, str] = {}  # of the last answer
        self._http = http

    async def __call__(
        self, method: str, path: str, key: str = "", **options: Any
    ) -> tuple[int, Any]:
        headers = {**options.pop("headers", {})}
        if key:
            headers["authorization"] = f"Bearer {key}"
        async with self._http.request(
            method, self.url + path, headers=headers, **options
        ) as response:
            self.headers = response.headers
            body = await response.text()
            try:
                return response.status, json.loads(body)
            except ValueError:
                return response.status, body


@asynccontextmanager
async def serving(hutch: Hutch) -> AsyncIterator[Api]:
    @asynccontextmanager
    async def running() -> AsyncIterator[Hutch]:
        yield hutch

    config = uvicorn.Config(
        guarded(create_app(running), hutch.sources, ["https://app.example.org"]),
        http=BoundedHeads,
        port=0,
        log_level="error",
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as http:
        yield Api(f"http://127.0.0.1:{port}", http)
    server.should_exit = True
    await task


@pytest.fixture
async def api(hutch: Hutch) -> AsyncIterator[Api]:
    async with serving(hutch) as served:
        yield served


@pytest.fixture
async def key(hutch: Hutch, user_id: str) -> str:
    return (await hutch.accounts.create_key("user", user_id)).text
