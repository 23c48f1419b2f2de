"""What changes something through the API gets its line in the audit log before it is answered."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hutch.accounts.models import ApiKey
from hutch.api.caller import source_in
from hutch.app import Hutch
from hutch.audit.models import Entry

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# What comes in numbers is noted a moment later, and does not wait for the disk.
_FREQUENT: Final = frozenset(
    {"POST /v1/runs", "POST /v1/runs/{run_id}/cancel"}
    | {"POST /v1/chat/completions", "POST /v1/responses", "POST /v1/messages"}
    | {"PUT /v1/files/content", "PUT /v1/files/archive"}
    | {"DELETE /v1/files", "POST /v1/files/move"}
)
_NOTHING: Final = frozenset({"POST /v1/tickets"})  # opens for seconds what its holder may read


@dataclass(slots=True)
class _Doing:
    target: dict[str, str] = field(default_factory=dict)


_doing: ContextVar[_Doing | None] = ContextVar("doing", default=None)


def about(**ids: str | None) -> None:
    """What a request turned out to be about, besides what its path says."""
    doing = _doing.get()
    if doing is not None:
        doing.target.update({name: text for name, text in ids.items() if text is not None})


class Audited:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _READING:
            await self._app(scope, receive, send)
            return
        doing = _Doing()
        token = _doing.set(doing)

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                await _note(scope, doing, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            _doing.reset(token)


async def _note(scope: Scope, doing: _Doing, status: int) -> None:
    state: dict[str, Any] = scope.get("state", {})
    key: ApiKey | None = state.get("key")
    route = getattr(scope.get("route"), "path", None)
    if key is None or route is None:
        return  # nobody who is known, or nothing that there is
    action = f"{scope['method']} {route}"
    hutch: Hutch = scope["app"].state.hutch
    entry = Entry(
        action,
        "ok" if status < 400 else str(state.get("code", "internal")),
        key.id,
        key.scope,
        state.get("user_id"),
        source_in(hutch, scope),
        tuple((scope.get("path_params", {}) | doing.target).items()),
    )
    if status == 403:
        # One who tries doors writes a line a minute, not one a try.
        hutch.audit.count(replace(entry, user=None, target=()))
    elif action in _NOTHING or (400 <= status < 500 and not doing.target):
        return  # nothing was changed; a run that failed has such a status in others' protocols
    elif action in _FREQUENT:
        hutch.audit.note(entry)
    else:
        await hutch.audit.record(entry)
