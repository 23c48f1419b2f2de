"""The offline model behind paths like the gateway's: ``/codex/v1/…``, ``/gemini/v1beta/…``."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hutch.offline_model.app import create_app


class WithoutProvider:
    """Takes the first segment off the path when it names a provider."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._bodies: deque[str] = deque(maxlen=20)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "DELETE":
            self._bodies.clear()
        if scope["type"] == "http" and scope["path"] == "/_test/bodies":
            await JSONResponse(list(self._bodies))(scope, receive, send)
            return
        if scope["type"] == "http" and scope["method"] == "POST":
            receive = self._keeping(receive)
        if scope["type"] == "http":
            first, _, rest = scope["path"].lstrip("/").partition("/")
            if first in {"claude", "codex", "gemini"}:
                scope = {**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode()}
        await self._app(scope, receive, send)

    def _keeping(self, receive: Receive) -> Receive:
        parts: list[bytes] = []

        async def keeping() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    self._bodies.append(b"".join(parts).decode(errors="replace"))
            return message

        return keeping


class Model:
    def __init__(self, url: str) -> None:
        self.url = url

    def requests(self) -> list[dict[str, Any]]:
        """The turns that it was asked for, oldest first."""
        with urllib.request.urlopen(f"{self.url}/_control/requests", timeout=10) as answer:  # noqa: S310 - our own
            seen: list[dict[str, Any]] = json.load(answer)["requests"]
        return [request for request in seen if request["kind"] in {"turn", "side"}]

    def refuse(self) -> None:
        """Answer 403 from now on."""
        request = urllib.request.Request(  # noqa: S310 - our own
            f"{self.url}/_control/behaviour",
            method="POST",
            data=b'{"status": 403}',
            headers={"content-type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - our own

    def bodies(self) -> list[str]:
        """What it was sent last, as it came (a CLI may compress)."""
        with urllib.request.urlopen(f"{self.url}/_test/bodies", timeout=10) as answer:  # noqa: S310 - our own
            found: list[str] = json.load(answer)
        return found

    def forget(self) -> None:
        for path in ("requests", "behaviour"):
            request = urllib.request.Request(f"{self.url}/_control/{path}", method="DELETE")  # noqa: S310 - our own
            urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - our own


@contextlib.contextmanager
def running_model() -> Iterator[Model]:
    """While the process lives."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "tests.runtime.model", str(port)])
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "the model did not start"
                assert time.monotonic() < deadline, "the model does not listen"
                time.sleep(0.05)
        yield Model(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(timeout=10)


if __name__ == "__main__":
    uvicorn.run(
        WithoutProvider(create_app()),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
