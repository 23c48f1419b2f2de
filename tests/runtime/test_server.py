"""The runtime's HTTP side, with a driver that echoes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from hutch_runtime import runs as runs_module
from hutch_runtime import server as server_module
from hutch_runtime.agents import Pool
from hutch_runtime.files.routes import FileRoutes
from hutch_runtime.files.tree import Tree
from hutch_runtime.git.clone import Cloner
from hutch_runtime.home import Home
from hutch_runtime.logins.service import Logins
from hutch_runtime.mcp_servers.service import CHANGED, McpServers
from hutch_runtime.protocol import PROMPT_MAX_BYTES
from hutch_runtime.runs import Runs
from hutch_runtime.server import BODY_MAX_BYTES, Server
from hutch_runtime.settings import Settings, read_settings
from hutch_runtime.state import State
from hutch_runtime.terminals.service import Terminals
from tests.runtime.fakes import EchoDriver

KEY = "the-runtime-key"


def _settings(home: Path) -> Settings:
    return read_settings(
        {
            "HUTCH_RUNTIME_KEY_SHA256": hashlib.sha256(KEY.encode()).hexdigest(),
            "HUTCH_GATEWAY_URL": "http://127.0.0.1:9",
            "HUTCH_PLACEHOLDER_KEY": "placeholder",
            "HUTCH_VERSIONS_FILE": str(home / "none.json"),
            "HOME": str(home),
        }
    )


@pytest.fixture
def driver() -> EchoDriver:
    return EchoDriver()


@pytest.fixture
async def runs(driver: EchoDriver, tmp_path: Path) -> AsyncIterator[Runs]:
    pool = Pool({"claude": driver}, prewarm=(), idle_s=900)
    runs = Runs(pool, _settings(tmp_path).versions, workspace=Home(tmp_path))
    yield runs
    await runs.close()
    await pool.close()


@pytest.fixture
async def http(runs: Runs, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    settings = _settings(tmp_path)
    logins = Logins(settings.setup, runs._pool, Home(settings.home))
    state = State(settings.home, settings.workspace, runs._pool, settings.identity)
    cloner = Cloner(Home(settings.workspace), settings.setup("claude"))
    servers = McpServers(
        Home(settings.home),
        settings.setup("claude"),
        lambda provider: logins.restart(provider, CHANGED),
    )
    terminals = Terminals(dict, settings.workspace, settings.identity)
    files = FileRoutes(Tree(settings.workspace, settings.identity))
    app = Server(
        settings,
        runs._pool,
        runs,
        logins,
        state,
        mcp_servers=servers,
        terminals=terminals,
        files=files,
        cloner=cloner,
    ).app()
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app),
        base_url="http://runtime",
        headers={"authorization": f"Bearer {KEY}"},
    ) as client:
        yield client


def _events(answer: httpx2.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: ")]


async def _start(http: httpx2.AsyncClient, run_id: str, prompt: str = "wait") -> asyncio.Task[Any]:
    task = asyncio.create_task(http.post("/claude", json={"run_id": run_id, "prompt": prompt}))
    for _ in range(1000):
        known = (await http.get("/runs")).json()["runs"]
        if any(run["run_id"] == run_id for run in known):
            return task
        await asyncio.sleep(0)
    pytest.fail("the run did not start")


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", f"Basic {KEY}", KEY, "Bearer ", f"Bearer {KEY}x"]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("GET", "/runs"),
        ("POST", "/claude"),
        ("GET", "/runs/r1/events"),
        ("POST", "/runs/r1/cancel"),
        ("GET", "/nowhere"),
    ],
)
async def test_nothing_without_the_key(
    http: httpx2.AsyncClient, header: str | None, method: str, path: str
) -> None:
    http.headers.pop("authorization")
    headers = {} if header is None else {"authorization": header}
    answer = await http.request(method, path, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_request"),
        (b"[]", 400, "bad_request"),
        (b"[" * 100_000, 400, "bad_request"),
        (b"\xff", 400, "bad_request"),
        ({"prompt": "x"}, 400, "bad_request"),
        ({"run_id": "r"}, 400, "bad_request"),
        ({"run_id": "r", "prompt": 3}, 400, "bad_request"),
        ({"run_id": "r", "prompt": " \n"}, 400, "bad_request"),
        ({"run_id": "../r", "prompt": "x"}, 400, "bad_request"),
        ({"run_id": "r", "prompt": "x", "model": "--help"}, 400, "bad_request"),
        ({"run_id": "r", "prompt": "x", "model": "a b"}, 400, "bad_request"),
        ({"run_id": "r", "prompt": "x", "session": "../x"}, 400, "bad_request"),
        ({"run_id": "r", "prompt": "x", "session": 3}, 400, "bad_request"),
        (b'{"run_id": "r", "prompt": "\\ud800"}', 400, "bad_request"),
        ({"run_id": "r", "prompt": "x" * (PROMPT_MAX_BYTES + 1)}, 413, "prompt_too_large"),
        ({"run_id": "r", "prompt": "é" * (PROMPT_MAX_BYTES // 2 + 1)}, 413, "prompt_too_large"),
        (b" " * (BODY_MAX_BYTES + 1), 413, "prompt_too_large"),
    ],
)
async def test_what_is_refused(
    http: httpx2.AsyncClient, driver: EchoDriver, body: Any, status: int, code: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await http.post("/claude", content=content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert driver.made == []
    assert (await http.get("/runs")).json() == {"runs": []}


async def test_a_prompt_of_the_largest_size_however_it_is_written(
    http: httpx2.AsyncClient, driver: EchoDriver
) -> None:
    prompt = "\x00" * PROMPT_MAX_BYTES  # six bytes each in JSON
    answer = await http.post("/claude", json={"run_id": "r", "prompt": prompt})
    assert answer.status_code == 200
    assert driver.made[0].prompts == [prompt]


async def test_a_run_that_is_not_there(http: httpx2.AsyncClient) -> None:
    for method, path in (("GET", "/runs/none/events"), ("POST", "/runs/none/cancel")):
        answer = await http.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "run_not_found")


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "9" * 13])
async def test_a_bad_position(http: httpx2.AsyncClient, after: str) -> None:
    await http.post("/claude", json={"run_id": "r", "prompt": "x"})
    answer = await http.get("/runs/r/events", params={"after": after})
    assert answer.status_code == 400


async def test_no_fifth_run_at_once(http: httpx2.AsyncClient) -> None:
    started = [await _start(http, f"r{number}") for number in range(4)]
    body = {"run_id": "r4", "prompt": "x"}
    answer = await http.post("/claude", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_runs")
    assert (await http.get("/health")).json()["runs_active"] == 4
    await http.post("/runs/r0/cancel")
    assert _events(await started[0])[-1]["stop_reason"] == "cancelled"
    assert (await http.post("/claude", json=body)).status_code == 200
    for number in (1, 2, 3):
        await http.post(f"/runs/r{number}/cancel")
        await started[number]


async def test_a_bug_ends_the_run_and_tells_nothing(
    http: httpx2.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await http.post("/claude", json={"run_id": "r", "prompt": "bug"})
    assert _events(answer)[-1]["error"]["code"] == "runtime_error"
    assert "secret" not in answer.text + "".join(capsys.readouterr())


async def test_a_reader_hears_something_while_nothing_happens(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HEARTBEAT_S", 0.02)
    task = await _start(http, "r")
    await asyncio.sleep(0.1)
    await http.post("/runs/r/cancel")
    answer = await task
    assert answer.text.count(": still here\n\n") >= 2
    assert [event["type"] for event in _events(answer)] == ["run.started", "text", "run.finished"]


async def test_old_runs_are_forgotten_but_never_run_again(
    http: httpx2.AsyncClient, driver: EchoDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "KEPT_RUNS", 3)
    for number in range(5):
        await http.post("/claude", json={"run_id": f"r{number}", "prompt": "x"})
    kept = [run["run_id"] for run in (await http.get("/runs")).json()["runs"]]
    assert kept == ["r2", "r3", "r4"]
    assert (await http.get("/runs/r0/events")).status_code == 404
    answer = await http.post("/claude", json={"run_id": "r0", "prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "run_not_found")
    assert sum(len(agent.prompts) for agent in driver.made) == 5


async def test_large_runs_are_forgotten_sooner(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "KEPT_BYTES", 300_000)
    for number in range(4):
        await http.post("/claude", json={"run_id": f"r{number}", "prompt": "x" * 50_000})
    assert [run["run_id"] for run in (await http.get("/runs")).json()["runs"]] == ["r2", "r3"]


async def test_closing_ends_every_run(http: httpx2.AsyncClient, runs: Runs) -> None:
    task = await _start(http, "r")
    await runs.close()
    last = _events(await task)[-1]
    assert (last["type"], last["error"]["code"]) == ("run.finished", "agent_died")
