"""What every answer carries, whoever gave it, and which web pages may ask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hutch.accounts.sources import Sources
from hutch.errors import HostNotReady

# An answer is data. A page of ours says itself what it needs.
_CSP: Final = b"default-src 'none'; frame-ancestors 'none'"
ALWAYS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", _CSP),
)
_HSTS: Final = (b"strict-transport-security", b"max-age=31536000")
_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")
_ASKED: Final = ("authorization", "content-type", "idempotency-key", "last-event-id")
_TOLD: Final = ("x-hutch-run", "x-hutch-session", "retry-after")
_PREFLIGHT_S: Final = 600


def guarded(app: ASGIApp, sources: Sources, origins: Sequence[str] = ()) -> ASGIApp:
    """``origins``: of web pages whose scripts may use the API. Raises ``HostNotReady``."""
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise HostNotReady(
                f"HUTCH_CORS_ORIGINS: {origin!r} is no origin.",
                hint="Such as https://app.example.org, comma-separated; no path, and no *.",
            )
    if origins:
        app = CORSMiddleware(
            app,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=[*_ASKED, "x-hutch-user", "x-hutch-session"],
            expose_headers=list(_TOLD),
            max_age=_PREFLIGHT_S,
        )
    return _Headers(app, sources)


class _Headers:
    def __init__(self, app: ASGIApp, sources: Sources) -> None:
        self._app = app
        self._sources = sources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        peer = scope["client"][0] if scope.get("client") else None
        tls = self._sources.under_tls(scope["scheme"], peer, scope["headers"])
        wanted = (*ALWAYS, _HSTS) if tls else ALWAYS

        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                given = {name.lower() for name, _ in headers}
                message["headers"] = headers + [one for one in wanted if one[0] not in given]
            await send(message)

        await self._app(scope, receive, send_with)
