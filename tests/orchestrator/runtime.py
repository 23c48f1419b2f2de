"""A runtime that follows a script, over real sockets, with the ways in which a real one fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from hutch.backends.base import Observed, SandboxSpec
from hutch.backends.fake import FakeBackend
from hutch_runtime.protocol import PROTOCOL_VERSION, Event

Script = Callable[["ScriptedRun"], AsyncIterator[tuple[str, dict[str, Any]]]]


def finished(stop_reason: str = "end_turn", **fields: Any) -> tuple[str, dict[str, Any]]:
    data = {"stop_reason": stop_reason, "error": None, "text": "", "timings": {}, **fields}
    return "run.finished", data


async def answers(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The ordinary turn: an echo, with usage."""
    yield run.started()
    for word in run.prompt.split(" "):
        yield "text.delta", {"text": word}
    yield "text", {"text": run.prompt}
    yield (
        "usage",
        {"input_tokens": 3, "output_tokens": 2, "cached_tokens": 0, "cost_usd": None},
    )
    yield finished(text=run.prompt)


async def waits_for_cancel(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield run.started()
    await run.cancelled.wait()
    yield finished("cancelled")


async def never_ends(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield run.started()
    await asyncio.Event().wait()


async def says_nothing(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    await run.runtime.release.wait()
    yield run.started()


async def waits_for_release(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield run.started()
    yield "text.delta", {"text": "before"}
    await run.runtime.release.wait()
    yield "text.delta", {"text": "after"}
    yield finished(text="beforeafter")


def asks_for(approval_id: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    data = {
        "approval_id": approval_id,
        "tool_id": "t1",
        "kind": "shell",
        "name": "Bash",
        "input": {"command": "touch x"},
        "diff": None,
        "truncated": False,
        "timeout_s": 300,
        **fields,
    }
    return "approval.requested", data


async def asks(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """For as many as the prompt says, at once; ends with what was decided."""
    yield run.started()
    ids = [f"apr_{number + 1}" for number in range(int(run.prompt))]
    for approval_id in ids:
        run.open[approval_id] = asyncio.get_running_loop().create_future()
        yield asks_for(approval_id)
    for approval_id in ids:
        decided, cancelled = run.open[approval_id], asyncio.create_task(run.cancelled.wait())
        await asyncio.wait((decided, cancelled), return_when=asyncio.FIRST_COMPLETED)
        cancelled.cancel()
        by, said = ("user", decided.result()) if decided.done() else ("cancel", "deny")
        yield "approval.decided", {"approval_id": approval_id, "decision": said, "by": by}
    if run.cancelled.is_set():
        yield finished("cancelled")
    else:
        yield finished(text=" ".join(run.open[one].result() for one in ids))


@dataclass
class ScriptedRun:
    runtime: ScriptedRuntime
    run_id: str
    provider: str
    prompt: str
    session: str
    model: str | None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    lines: list[bytes] = field(default_factory=list)
    done: bool = False
    open: dict[str, asyncio.Future[str]] = field(default_factory=dict)

    def started(self) -> tuple[str, dict[str, Any]]:
        return (
            "run.started",
            {
                "provider": self.provider,
                "session": self.session,
                "model": self.model,
                "cli_version": "1.2.3",
                "agent": "warm",
            },
        )


class ScriptedRuntime:
    """Change ``script`` for the next run; ``cut_after`` breaks each stream after so many events."""

    def __init__(self) -> None:
        self.script: Script = answers
        self.cut_after: int | None = None
        self.release = asyncio.Event()
        self.runs: dict[str, ScriptedRun] = {}
        self.executions: list[str] = []  # run ids, once per real execution
        self.at_once = 0
        self.most_at_once = 0
        self.is_old = False  # knows no options; to be said before it serves
        self.bodies: list[dict[str, Any]] = []
        self.raw: list[bytes] | None = None  # sent instead of what the script says
        self.deaf_to_cancel = False
        self.keys: set[str] = set()
        self.health: dict[str, Any] = {
            "status": "ready",
            "protocol": PROTOCOL_VERSION,
            "runtime": "0.1.0",
            "cli": {"claude": "1.2.3", "codex": "1.2.3", "gemini": "1.2.3"},
        }
        # What a sandbox holds, by its key; and whether packing and unpacking it may go on.
        self.files: dict[str, bytes] = {}
        self.may_pack = asyncio.Event()
        self.may_pack.set()
        self.packing = asyncio.Event()
        self.unpacked = 0
        self.refuses_unpacking = False
        self.clones: list[dict[str, Any]] = []
        self.clone_says: dict[str, Any] = {}
        self.cloning: Callable[[], object] = lambda: None  # called while one is under way
        self.knows_mcp = True
        self.mcp_servers: list[list[dict[str, Any]]] = []  # as it was told, oldest first
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        app = web.Application(client_max_size=300 * 2**20)
        app.router.add_get("/health", self._health)
        app.router.add_get("/runs/{run_id}/events", self._events)
        app.router.add_post("/runs/{run_id}/cancel", self._cancel)
        app.router.add_post("/runs/{run_id}/approvals/{approval_id}", self._decide)
        app.router.add_get("/state", self._pack)
        app.router.add_put("/state", self._unpack)
        app.router.add_put("/mcp-servers", self._put_mcp_servers)
        app.router.add_post("/git/clone", self._clone)
        app.router.add_post("/{provider}", self._prompt)
        if not self.is_old:
            app.router.add_post("/{provider}/with-options", self._prompt)
            app.router.add_post("/{provider}/with-approvals", self._prompt)
            app.router.add_post("/{provider}/with-diff", self._prompt)
            app.router.add_post("/{provider}/fork", self._fork)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield runner.addresses[0][1]
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        self.keys.add(request.headers["authorization"])
        return web.json_response(self.health)

    async def _prompt(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.bodies.append(body)
        run = self.runs.get(body["run_id"])
        if run is None:
            run = ScriptedRun(
                self,
                body["run_id"],
                request.match_info["provider"],
                body["prompt"],
                body["session"] or f"cli-{len(self.runs)}",
                body["model"],
            )
            self.runs[run.run_id] = run
            task = asyncio.create_task(self._execute(run))
            self._tasks.add(task)
        return await self._stream(request, run, 0)

    async def _fork(self, request: web.Request) -> web.Response:
        session = json.loads(await request.read())["session"]
        return web.json_response({"session": f"{session}-fork"})

    async def _execute(self, run: ScriptedRun) -> None:
        self.executions.append(run.run_id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            async for kind, data in self.script(run):
                event = Event(run.run_id, len(run.lines) + 1, 1000.0, kind, data)
                run.lines.append(event.to_json().encode())
        finally:
            self.at_once -= 1
            run.done = True

    async def _events(self, request: web.Request) -> web.StreamResponse:
        run = self.runs.get(request.match_info["run_id"])
        if run is None:
            error = {"code": "run_not_found", "message": "no such run", "hint": ""}
            return web.json_response({"error": error}, status=404)
        return await self._stream(request, run, int(request.query["after"]))

    async def _stream(
        self, request: web.Request, run: ScriptedRun, after: int
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        if self.raw is not None:
            for line in self.raw:
                await response.write(b"data: " + line + b"\n\n")
            return response
        sent = 0
        while not (run.done and after >= len(run.lines)):
            if after < len(run.lines):
                await response.write(b": x\n\nid: 1\ndata: " + run.lines[after] + b"\n\n")
                after += 1
                sent += 1
                if self.cut_after is not None and sent >= self.cut_after:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
            else:
                await asyncio.sleep(0.005)
        return response

    async def _pack(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        held = self.files.get(request.headers["authorization"], b"")
        await response.write(held[: len(held) // 2])
        self.packing.set()
        await self.may_pack.wait()
        await response.write(held[len(held) // 2 :])
        return response

    async def _unpack(self, request: web.Request) -> web.Response:
        content = await request.read()
        if self.refuses_unpacking:
            return web.json_response({"error": {"message": "tar: no space"}}, status=500)
        self.files[request.headers["authorization"]] = content
        self.unpacked += 1
        return web.json_response({})

    async def _decide(self, request: web.Request) -> web.Response:
        run = self.runs[request.match_info["run_id"]]
        waiting = run.open[request.match_info["approval_id"]]
        if not waiting.done():
            waiting.set_result(json.loads(await request.read())["decision"])
        return web.json_response({"decision": waiting.result(), "by": "user"})

    async def _clone(self, request: web.Request) -> web.Response:
        self.clones.append(await request.json())
        self.cloning()
        return web.json_response(self.clone_says)

    async def _put_mcp_servers(self, request: web.Request) -> web.Response:
        if not self.knows_mcp:  # as Starlette says of a path that is not there
            return web.Response(status=404, text="Not Found")
        self.mcp_servers.append((await request.json())["servers"])
        return web.json_response({})

    async def _cancel(self, request: web.Request) -> web.Response:
        run = self.runs.get(request.match_info["run_id"])
        if run is not None and not self.deaf_to_cancel:
            run.cancelled.set()
        return web.json_response({})


class ScriptedBackend(FakeBackend):
    """Its sandboxes all answer at the scripted runtime's address."""

    def __init__(self, port: int, instance: str) -> None:
        super().__init__(instance)
        self.specs: list[SandboxSpec] = []
        self.port = port

    async def create(self, spec: SandboxSpec) -> Observed:
        self.specs.append(spec)
        return await super().create(spec)

    async def start(self, handle: str) -> Observed:
        return self._here(await super().start(handle))

    async def inspect(self, handle: str) -> Observed | None:
        observed = await super().inspect(handle)
        return self._here(observed) if observed else None

    def _here(self, observed: Observed) -> Observed:
        if observed.address is None:
            return observed
        return replace(observed, address="127.0.0.1", port=self.port)


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()
