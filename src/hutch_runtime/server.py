"""The runtime's HTTP side."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hutch_runtime.agents import Pool
from hutch_runtime.disk import disk
from hutch_runtime.files.routes import FileRoutes
from hutch_runtime.git.clone import Cloner
from hutch_runtime.git.routes import GitRoutes
from hutch_runtime.logins.routes import LoginRoutes
from hutch_runtime.logins.service import Logins
from hutch_runtime.mcp_servers.routes import McpServerRoutes
from hutch_runtime.mcp_servers.service import McpServers
from hutch_runtime.protocol import (
    APPROVAL_ID,
    ATTACHMENTS_MAX_BYTES,
    DECISIONS,
    KIB,
    OUTPUT_SCHEMA_MAX_BYTES,
    PROMPT_MAX_BYTES,
    PROTOCOL_VERSION,
    PROVIDERS,
    SYSTEM_PROMPT_MAX_BYTES,
    ErrorCode,
    OptionError,
    Provider,
    RequestCode,
    read_attachments,
    read_options,
)
from hutch_runtime.providers.base import PLAIN
from hutch_runtime.runs import Refused, Request, Run, Runs
from hutch_runtime.settings import Settings
from hutch_runtime.state import State
from hutch_runtime.tar import TarFailed
from hutch_runtime.terminals.routes import Attach, TerminalRoutes
from hutch_runtime.terminals.service import Terminals

HEARTBEAT_S: Final = 15.0
# JSON can write one byte of a prompt as six ("\u0000"); the other fields are small.
BODY_MAX_BYTES: Final = 6 * PROMPT_MAX_BYTES + 16 * KIB
# Base64 makes four bytes of three; system prompts and a schema are escaped like a prompt.
OPTIONS_BODY_MAX_BYTES: Final = (
    BODY_MAX_BYTES
    + 4 * ATTACHMENTS_MAX_BYTES // 3
    + 6 * (2 * SYSTEM_PROMPT_MAX_BYTES + OUTPUT_SCHEMA_MAX_BYTES)
)

_RUN_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
# No control characters, and it must not look like an option.
_MODEL: Final = re.compile(r"[A-Za-z0-9][\x21-\x7e]{0,199}")
_SESSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

_STATUS: Final[dict[ErrorCode | RequestCode, int]] = {
    "bad_request": 400,
    "unauthorized": 401,
    "not_supported": 400,
    "run_not_found": 404,
    "terminal_not_found": 404,
    "session_not_found": 404,
    "session_busy": 409,
    "prompt_too_large": 413,
    "too_many_runs": 429,
    "too_many_terminals": 429,
    "runtime_error": 500,
    "agent_start_failed": 503,
    "terminal_failed": 503,
}


class Server:
    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        runs: Runs,
        logins: Logins,
        state: State,
        *,
        mcp_servers: McpServers,
        terminals: Terminals,
        files: FileRoutes,
        cloner: Cloner,
    ) -> None:
        self._settings = settings
        self._places = {
            "workspace": settings.workspace,
            "home": settings.home,
            "tmp": Path("/tmp"),  # noqa: S108  told, not written to: it is the agents'
        }
        self._state = state
        self._pool = pool
        self._runs = runs
        self._logins = logins
        self._mcp_servers = mcp_servers
        self._terminals = terminals
        self._files = files
        self._cloner = cloner

    def app(self) -> ASGIApp:
        routes = [
            Route("/health", _guarded(self._health)),
            Route("/runs", _guarded(self._list)),
            Route("/runs/{run_id}/events", _guarded(self._events)),
            Route("/runs/{run_id}/cancel", _guarded(self._cancel), methods=["POST"]),
            *(
                Route(f"/{provider}", _guarded(self._prompt(provider)), methods=["POST"])
                for provider in PROVIDERS
            ),
            Route(
                "/runs/{run_id}/approvals/{approval_id}", _guarded(self._decide), methods=["POST"]
            ),
            # Paths of their own: an older runtime, which would pass over options or ask nobody, has
            # no such path.
            *(
                Route(
                    f"/{provider}/{way}",
                    _guarded(self._prompt(provider, options=True)),
                    methods=["POST"],
                )
                for provider in PROVIDERS
                for way in ("with-options", "with-approvals", "with-diff")
            ),
            *(
                Route(f"/{provider}/fork", _guarded(self._fork(provider)), methods=["POST"])
                for provider in PROVIDERS
            ),
            Route("/state", _guarded(self._pack), methods=["GET"]),
            Route("/state", _guarded(self._unpack), methods=["PUT"]),
            Route("/git/clone", _guarded(GitRoutes(self._cloner).clone), methods=["POST"]),
            Route(
                "/mcp-servers",
                _guarded(McpServerRoutes(self._mcp_servers).put),
                methods=["PUT"],
            ),
            *(
                Route(path, _guarded(endpoint), methods=[method])
                for path, method, endpoint in (
                    *LoginRoutes(self._logins).all(),
                    *TerminalRoutes(self._terminals).all(),
                    *self._files.all(),
                )
            ),
            Route(
                "/terminals/{terminal_id}/attach",
                Attach(self._terminals, _refusal),
                methods=["POST"],
            ),
        ]
        return _KeyRequired(
            Starlette(routes=routes, lifespan=self._lifespan), self._settings.key_sha256
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        self._pool.start()
        try:
            yield
        finally:
            await self._runs.close()
            await self._logins.close()
            await self._terminals.close()
            await self._pool.close()

    def _prompt(
        self, provider: Provider, *, options: bool = False
    ) -> Callable[[HttpRequest], Awaitable[Response]]:
        most = OPTIONS_BODY_MAX_BYTES if options else BODY_MAX_BYTES

        async def prompt(http: HttpRequest) -> Response:
            run = self._runs.submit(_parse(provider, await _body(http, most), options=options))
            return _stream(run, after=0)

        return prompt

    def _fork(self, provider: Provider) -> Callable[[HttpRequest], Awaitable[Response]]:
        async def fork(http: HttpRequest) -> Response:
            session = _word(_object(await _body(http, KIB)), "session", _SESSION)
            if session is None:
                raise Refused("bad_request", "session is missing.")
            return JSONResponse({"session": await self._runs.fork(provider, session)})

        return fork

    async def _events(self, http: HttpRequest) -> Response:
        run = self._runs.get(http.path_params["run_id"])
        after = http.query_params.get("after", "0")
        if not re.fullmatch(r"[0-9]{1,12}", after):
            raise Refused("bad_request", "after is not a sequence number.")
        return _stream(run, after=int(after))

    async def _cancel(self, http: HttpRequest) -> Response:
        run = self._runs.cancel(http.path_params["run_id"])
        return JSONResponse({"run_id": run.request.run_id, "finished": run.journal.finished})

    async def _decide(self, http: HttpRequest) -> Response:
        decision = _object(await _body(http, KIB)).get("decision")
        if decision not in DECISIONS:
            raise Refused("bad_request", f"decision is one of {', '.join(DECISIONS)}.")
        approval_id = http.path_params["approval_id"]
        if not APPROVAL_ID.fullmatch(approval_id):
            raise Refused("run_not_found", "There is no such approval.")
        decided = self._runs.decide(http.path_params["run_id"], approval_id, decision)
        return JSONResponse({"decision": decided.decision, "by": decided.by})

    async def _pack(self, _http: HttpRequest) -> Response:
        """A tar of home and workspace. The connection breaks off if it is not whole."""
        self._check_at_rest()
        await self._terminals.end_all("The container is being put away.")
        return StreamingResponse(self._state.pack(), media_type="application/x-tar")

    async def _unpack(self, http: HttpRequest) -> Response:
        self._check_at_rest()
        try:
            await self._state.unpack(http.stream())
        except TarFailed as failed:
            raise Refused("runtime_error", f"The state could not be unpacked: {failed}") from None
        return JSONResponse({})

    def _check_at_rest(self) -> None:
        if self._runs.active:
            raise Refused("session_busy", "A run is in progress.", "Wait for its end.")

    async def _list(self, _http: HttpRequest) -> Response:
        return JSONResponse({"runs": self._runs.report()})

    async def _health(self, _http: HttpRequest) -> Response:
        versions = self._settings.versions
        return JSONResponse(
            {
                "status": "ready" if self._pool.ready else "starting",
                "protocol": PROTOCOL_VERSION,
                "runtime": versions["runtime"],
                "cli": {provider: versions[provider] for provider in PROVIDERS},
                "agents": self._pool.report(),
                "disk": disk(self._places),
                "runs_active": self._runs.active,
            }
        )


class _KeyRequired:
    """Lets nothing pass that does not bring the key, of which only the hash is known here."""

    def __init__(self, app: ASGIApp, key_sha256: bytes) -> None:
        self._app = app
        self._key_sha256 = key_sha256

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._allowed(scope):
            refusal = Refused("unauthorized", "A bearer key of this sandbox is required.")
            await _refusal(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        matches = hmac.compare_digest(hashlib.sha256(key.strip()).digest(), self._key_sha256)
        return matches and scheme.lower() == b"bearer"


def _guarded(
    endpoint: Callable[[HttpRequest], Awaitable[Response]],
) -> Callable[[HttpRequest], Awaitable[Response]]:
    async def guarded(http: HttpRequest) -> Response:
        try:
            return await endpoint(http)
        except Refused as refused:
            return _refusal(refused)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    return guarded


def _refusal(refused: Refused) -> Response:
    error = {"code": refused.code, "message": refused.message, "hint": refused.hint}
    return JSONResponse({"error": error}, status_code=_STATUS[refused.code])


async def _body(http: HttpRequest, most: int) -> bytes:
    parts, size = [], 0
    async for part in http.stream():
        size += len(part)
        if size > most:
            raise Refused("prompt_too_large", f"The body is larger than {most} bytes.")
        parts.append(part)
    return b"".join(parts)


def _object(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused("bad_request", "The body is not JSON.") from None
    if not isinstance(given, dict):
        raise Refused("bad_request", "The body is not a JSON object.")
    return given


def _parse(provider: Provider, body: bytes, *, options: bool) -> Request:
    given = _object(body)
    prompt = given.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise Refused("bad_request", "prompt is missing or blank.")
    try:
        size = len(prompt.encode())
    except UnicodeEncodeError:
        raise Refused("bad_request", "prompt holds half of a surrogate pair.") from None
    if size > PROMPT_MAX_BYTES:
        raise Refused(
            "prompt_too_large",
            f"The prompt has {size} bytes; {PROMPT_MAX_BYTES} are allowed.",
            "Put what is long into a file in the workspace, and name it in the prompt.",
        )
    run_id = _word(given, "run_id", _RUN_ID)
    if run_id is None:
        raise Refused("bad_request", "run_id is missing.")
    try:
        return Request(
            run_id=run_id,
            provider=provider,
            prompt=prompt,
            model=_word(given, "model", _MODEL),
            session=_word(given, "session", _SESSION),
            options=read_options(given.get("options", {})) if options else PLAIN,
            attachments=read_attachments(given.get("attachments", [])) if options else (),
        )
    except OptionError as error:
        raise Refused("bad_request", f"{error}.") from None


def _word(given: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str | None:
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise Refused("bad_request", f"{name} is malformed.")
    return value


def _stream(run: Run, *, after: int) -> Response:
    return StreamingResponse(
        _with_heartbeat(run.journal.follow(after)),
        media_type="text/event-stream",
        headers={"cache-control": "no-store"},
    )


async def _with_heartbeat(batches: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The batches, and a comment whenever nothing came for a while, so that a reader can tell a
    quiet run from a broken connection.
    """
    waiting: asyncio.Future[bytes] | None = None
    try:
        while True:
            waiting = asyncio.ensure_future(anext(batches, b""))
            while not (await asyncio.wait({waiting}, timeout=HEARTBEAT_S))[0]:
                yield b": still here\n\n"
            if not (batch := waiting.result()):
                return
            yield batch
    finally:
        if waiting is not None:
            waiting.cancel()
