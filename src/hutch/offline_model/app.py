"""The offline model's routes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hutch.offline_model.anthropic import AnthropicMessages
from hutch.offline_model.behaviour import LABEL, Caller, answer, digest, fingerprint, wish_of
from hutch.offline_model.bodies import TooLarge, read_json
from hutch.offline_model.control import Control
from hutch.offline_model.conversation import Conversation, Malformed
from hutch.offline_model.gemini import GeminiContent
from hutch.offline_model.models import gemini_models, models
from hutch.offline_model.openai import OpenAIResponses
from hutch.offline_model.recorded import Recorded
from hutch.offline_model.reply import Reply, play, play_whole
from hutch.offline_model.request_log import RequestLog
from hutch.offline_model.wire import Wire

_TURN_MAX: Final = 64


def create_app(log: Path | None = None) -> ASGIApp:
    """The server as an ASGI app, with records and behaviours of its own. ``log``: a file to which
    every turn is appended.
    """
    control = Control(RequestLog(log))
    server = _Server(control)
    app = Starlette(
        routes=[
            Route("/", server.root, methods=["GET", "HEAD"]),
            Route("/ip", server.ip),
            Route("/v1/models", server.models),
            Route("/v1/messages", server.messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", server.count_tokens, methods=["POST"]),
            Route("/v1/responses", server.responses, methods=["POST"]),
            Route("/v1/responses", server.no_websocket, methods=["GET"]),
            Route("/v1beta/models", server.gemini_models),
            Route("/v1beta/models/{call:path}", server.gemini, methods=["POST"]),
            *control.routes(),
        ]
    )
    return _Labelled(app)


class _Labelled:
    """Puts the label on everything, errors and unknown paths included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", []), (b"x-hutch-offline-model", b"1")]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, labelled)


class _Server:
    def __init__(self, control: Control) -> None:
        self._control = control
        self._anthropic = AnthropicMessages()
        self._openai = OpenAIResponses()
        self._gemini = GeminiContent()

    async def root(self, request: Request) -> Response:
        self._record(request).status = 200
        return JSONResponse({"name": LABEL})

    async def ip(self, request: Request) -> Response:
        """Where the asker comes from, as the pages say that exits are probed with."""
        return JSONResponse({"ip": self._record(request).peer})

    async def models(self, request: Request) -> Response:
        wire = self._anthropic if "anthropic-version" in request.headers else self._openai
        return self._list(request, wire, models(request))

    async def gemini_models(self, request: Request) -> Response:
        return self._list(request, self._gemini, gemini_models())

    def _list(self, request: Request, wire: Wire, listing: dict[str, Any]) -> Response:
        recorded = self._record(request)
        wish = self._control.take("", recorded.key, models=True)
        if wish is not None and wish.status is not None:
            return _error(wire, recorded, wish.status, "asked for by a test")
        recorded.status = 200
        return JSONResponse(listing)

    async def no_websocket(self, request: Request) -> Response:
        """Codex's built-in provider tries a WebSocket first; 426 sends it to POST."""
        self._record(request).status = 426
        return Response(status_code=426)

    async def messages(self, request: Request) -> Response:
        return await self._generate(request, self._anthropic)

    async def count_tokens(self, request: Request) -> Response:
        return await self._count(request, self._anthropic)

    async def responses(self, request: Request) -> Response:
        return await self._generate(request, self._openai)

    async def gemini(self, request: Request) -> Response:
        model, _, method = request.path_params["call"].partition(":")
        match method:
            case "generateContent":
                return await self._generate(request, self._gemini, model=model)
            case "streamGenerateContent":
                return await self._generate(request, self._gemini, model=model, stream=True)
            case "countTokens":
                return await self._count(request, self._gemini)
            case _:
                return _error(self._gemini, self._record(request), 404, "no such method")

    async def _generate(
        self, request: Request, wire: Wire, *, model: str = "", stream: bool = False
    ) -> Response:
        recorded = self._record(request)
        conversation = await self._read(request, wire, recorded, model=model, stream=stream)
        if isinstance(conversation, Response):
            return conversation
        recorded.kind = conversation.kind
        request_id = self._control.log.begin(recorded, conversation, turn=_turn(request))
        ended = partial(self._control.log.end, request_id, recorded)
        caller = Caller(recorded.key, recorded.peer)
        wish = wish_of(conversation)
        if conversation.kind == "turn":
            wish = self._control.take(conversation.last_text, recorded.key) or wish
        if wish.status is not None:
            refusal = _error(wire, recorded, wish.status, "asked for by the user's text or a test")
            ended()
            return refusal
        reply = answer(conversation, wish, caller)
        recorded.status = 200
        if conversation.stream:
            script = wire.script(conversation, reply)
            return Reply(play(script, reply), "text/event-stream", recorded, ended)
        whole = wire.whole(conversation, reply)
        return Reply(play_whole(whole, reply), "application/json", recorded, ended)

    async def _count(self, request: Request, wire: Wire) -> Response:
        recorded = self._record(request)
        conversation = await self._read(request, wire, recorded, model="", stream=False)
        if isinstance(conversation, Response):
            return conversation
        recorded.kind, recorded.status = "count", 200
        return JSONResponse(wire.count(conversation.input_tokens))

    async def _read(
        self, request: Request, wire: Wire, recorded: Recorded, *, model: str, stream: bool
    ) -> Conversation | Response:
        try:
            body = await read_json(request)
            conversation = wire.parse(body, model=model, stream=stream)
        except TooLarge as error:
            return _error(wire, recorded, 413, str(error))
        except Malformed as error:
            return _error(wire, recorded, 400, str(error))
        recorded.model = conversation.model
        recorded.text_sha256 = digest(conversation.last_text)
        recorded.text_chars = len(conversation.last_text)
        return conversation

    def _record(self, request: Request) -> Recorded:
        peer = request.client.host if request.client else ""
        key = fingerprint(_key(request))
        recorded = Recorded(request.method, request.url.path, key=key, peer=peer)
        self._control.record(recorded)
        return recorded


def _key(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return (
        request.headers.get("x-api-key")
        or request.headers.get("x-goog-api-key")
        or (token.strip() if scheme.lower() == "bearer" else "")
        or request.query_params.get("key", "")
    )


def _turn(request: Request) -> str:
    """Codex numbers its turns, Claude Code its sessions; Gemini CLI tells neither."""
    try:
        told = json.loads(request.headers.get("x-codex-turn-metadata", "{}"))
    except ValueError:
        told = {}
    turn = told.get("turn_id") if isinstance(told, dict) else None
    return str(turn or request.headers.get("x-claude-code-session-id", ""))[:_TURN_MAX]


def _error(wire: Wire, recorded: Recorded, status: int, message: str) -> Response:
    real, body = wire.error(status, f"{LABEL}: {message}")
    recorded.status = real
    return JSONResponse(body, status_code=real)
