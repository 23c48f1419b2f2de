from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.routing import APIRoute

from hutch.api import (
    admin,
    agreements,
    approvals,
    audit,
    container,
    credentials,
    errors,
    exits,
    files,
    git,
    health,
    images,
    keys,
    logins,
    mcp_servers,
    metrics,
    network,
    page,
    runs,
    scaling,
    sessions,
    terminal_websocket,
    terminals,
    tickets,
    webhooks,
    websockets,
)
from hutch.api.auditing import Audited
from hutch.api.compat import chat, messages, models, responses
from hutch.api.limits import BodyLimit
from hutch.app import Hutch


def create_app(running: Callable[[], AbstractAsyncContextManager[Hutch]]) -> FastAPI:
    """The API over what ``running`` starts and ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running() as hutch:
            app.state.hutch = hutch
            yield

    app = FastAPI(
        title="Hutch",
        version=version("hutch"),
        summary="Claude Code, Codex CLI and Gemini CLI in a container of each user's own.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    errors.install(app)
    page.install(app)
    app.add_middleware(Audited)
    app.add_middleware(BodyLimit)
    for part in (
        runs,
        approvals,
        websockets,
        tickets,
        terminals,
        terminal_websocket,
        sessions,
        webhooks,
        container,
        files,
        credentials,
        logins,
        agreements,
        exits,
        network,
        mcp_servers,
        git,
        keys,
        admin,
        audit,
        scaling,
        images,
        health,
        metrics,
        chat,
        responses,
        messages,
        models,
    ):
        paths = (route.path for route in part.router.routes if isinstance(route, APIRoute))
        app.include_router(part.router, responses=errors.documented(next(paths, "")))
    return app
