"""A real sandbox of the real image, in which the CLI is a program of ours that runs the Python it
is prompted with: what an agent can do to its runtime, seen from where an agent stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shlex
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from hutch.backends.base import Backend, Observed, Resources, SandboxSpec
from hutch.ids import new_id
from tests.contract.conftest import make_settings, open_kind

KEY = "the-key-of-this-sandbox"
READY_S = 60
T = TypeVar("T")

# As much of Claude Code as the runtime's driver needs.
_CLI = """
import contextlib, io, json, sys, traceback
for line in sys.stdin:
    said = json.loads(line)
    if said["type"] == "control_request":
        answer = {"subtype": "success", "request_id": said["request_id"], "response": {}}
        print(json.dumps({"type": "control_response", "response": answer}), flush=True)
        continue
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(said["message"]["content"], {})
    except BaseException:
        out.write(traceback.format_exc())
    text = {"type": "text", "text": out.getvalue()}
    print(json.dumps({"type": "assistant", "message": {"content": [text]}}), flush=True)
    print(json.dumps({"type": "result", "subtype": "success", "is_error": False}), flush=True)
"""


class Sandbox:
    """Start it with ``running_sandbox``."""

    def __init__(self, kind: str, observed: Observed) -> None:
        self.kind = kind
        self.observed = observed
        self.http = httpx2.Client(
            base_url=f"http://{observed.address}:{observed.port}",
            headers={"authorization": f"Bearer {KEY}"},
            timeout=60,
            trust_env=False,
        )

    def prompt(self, code: str, *, session: str | None = None) -> list[dict[str, Any]]:
        """The events of a run."""
        body = {"run_id": uuid.uuid4().hex, "prompt": code, "session": session}
        with self.http.stream("POST", "/claude", json=body) as answer:
            assert answer.status_code == 200, answer.read()
            return [
                json.loads(line.removeprefix("data: "))
                for line in answer.iter_lines()
                if line.startswith("data: ")
            ]

    def run(self, code: str) -> Any:
        """What the agent's program printed, which is JSON."""
        events = self.prompt(code)
        texts = [event["text"] for event in events if event["type"] == "text"]
        assert texts, events
        try:
            return json.loads(texts[-1])
        except ValueError:
            raise AssertionError(texts[-1]) from None

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/health").json()
        return found

    def ready(self) -> None:
        until = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(httpx2.TransportError):
                if self.health()["status"] == "ready":
                    return
            assert time.monotonic() < until, "the runtime did not become ready"
            time.sleep(0.05)


@contextlib.contextmanager
def running_sandbox(kind: str, directory: Path, **resources: int) -> Iterator[Sandbox]:
    settings = make_settings(kind, directory)

    def with_backend(work: Callable[[Backend], Awaitable[T]]) -> T:
        async def worked() -> T:
            backend = open_kind(kind, settings)
            try:
                return await work(backend)
            finally:
                await backend.close()

        return asyncio.run(worked())

    async def start(backend: Backend) -> Observed:
        await backend.prepare()
        limits = Resources(**resources)
        spec = SandboxSpec(
            instance=settings.instance,
            sandbox_id=new_id("sbx"),
            incarnation=new_id("inc"),
            image=settings.image,
            env={
                "HUTCH_RUNTIME_KEY_SHA256": hashlib.sha256(KEY.encode()).hexdigest(),
                "HUTCH_GATEWAY_URL": "http://192.0.2.1:1",  # nobody: no model is asked
                "HUTCH_PLACEHOLDER_KEY": "a-placeholder",
                "HUTCH_PREWARM": "claude",
                "HUTCH_AGENT_PIDS": str(limits.agent_pids if kind == "docker-gvisor" else 0),
                "HUTCH_CLI_CLAUDE": shlex.join(["python3", "-c", _CLI]),
            },
            resources=limits,
        )
        return await backend.start((await backend.create(spec)).handle)

    try:
        sandbox = Sandbox(kind, with_backend(start))
        with sandbox.http:
            sandbox.ready()
            yield sandbox
    finally:
        with_backend(lambda backend: backend.cleanup())
