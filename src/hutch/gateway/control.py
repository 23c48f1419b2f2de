"""The control socket's side in the gateway.

``PUT /table``, ``PUT /table/{sandbox_id}``, ``DELETE /table/{sandbox_id}?incarnation=…`` → 204;
``GET /health`` → ``{boot_id, entries, synced}``. Who may open the socket may say everything.
"""

from __future__ import annotations

import secrets
from typing import Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from hutch.gateway.proxy import Proxy
from hutch.gateway.wire import EntryIn, TableIn
from hutch_runtime.protocol import MIB

_Model = TypeVar("_Model", bound=BaseModel)
_TABLE_MAX: Final = 64 * MIB  # some 30,000 sandboxes


def control_app(proxy: Proxy) -> web.Application:
    boot_id = secrets.token_hex(8)

    async def put_table(request: web.Request) -> web.Response:
        table = _parsed(TableIn, await request.read())
        proxy.table.replace(entry.entry() for entry in table.entries)
        proxy.synced.set()
        return web.Response(status=204)

    async def put_entry(request: web.Request) -> web.Response:
        entry = _parsed(EntryIn, await request.read()).entry()
        if entry.sandbox_id != request.match_info["sandbox_id"]:
            raise web.HTTPBadRequest(text="the path names another sandbox")
        proxy.table.put(entry)
        return web.Response(status=204)

    async def delete_entry(request: web.Request) -> web.Response:
        proxy.table.remove(request.match_info["sandbox_id"], request.query.get("incarnation", ""))
        return web.Response(status=204)

    async def health(_: web.Request) -> web.Response:
        return web.json_response(
            {"boot_id": boot_id, "entries": len(proxy.table), "synced": proxy.synced.is_set()}
        )

    app = web.Application(client_max_size=_TABLE_MAX)
    app.router.add_put("/table", put_table)
    app.router.add_put("/table/{sandbox_id}", put_entry)
    app.router.add_delete("/table/{sandbox_id}", delete_entry)
    app.router.add_get("/health", health)
    return app


def _parsed(model: type[_Model], body: bytes) -> _Model:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_context=False, include_url=False)
        text = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in problems[:5])
        raise web.HTTPBadRequest(text=text) from None
