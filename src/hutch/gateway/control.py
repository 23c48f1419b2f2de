"""The control socket's side in the gateway.

``PUT /table``, ``PATCH /table`` (adds or replaces), ``DELETE /table/{sandbox_id}?incarnation=…`` →
204;
``GET /health`` → ``{boot_id, entries, synced}``; ``GET /exits`` → ``{id: {requests, failures}}``;
``GET /failures/{sandbox_id}?incarnation=…&since=SECONDS`` → ``{code, message, at}`` or 204;
``GET /metrics`` → Prometheus' text. Who may open the socket may say everything.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict
from typing import Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from hutch.gateway.gate import Gate
from hutch.gateway.wire import TableIn
from hutch_runtime.protocol import MIB

_Model = TypeVar("_Model", bound=BaseModel)
_TABLE_MAX: Final = 64 * MIB  # some 30,000 sandboxes


def control_app(gate: Gate) -> web.Application:
    boot_id = secrets.token_hex(8)

    async def put_table(request: web.Request) -> web.Response:
        table = _parsed(TableIn, await request.read())
        gate.table.replace(entry.entry() for entry in table.entries)
        gate.table_changed()
        gate.synced.set()
        return web.Response(status=204)

    async def put_entries(request: web.Request) -> web.Response:
        for entry in _parsed(TableIn, await request.read()).entries:
            gate.table.put(entry.entry())
        gate.table_changed()
        return web.Response(status=204)

    async def delete_entry(request: web.Request) -> web.Response:
        gate.table.remove(request.match_info["sandbox_id"], request.query.get("incarnation", ""))
        gate.table_changed()
        return web.Response(status=204)

    async def health(_: web.Request) -> web.Response:
        return web.json_response(
            {"boot_id": boot_id, "entries": len(gate.table), "synced": gate.synced.is_set()}
        )

    async def exits(_: web.Request) -> web.Response:
        return web.json_response({name: asdict(one) for name, one in gate.traffic.exits().items()})

    async def failure(request: web.Request) -> web.Response:
        try:
            since = float(request.query.get("since", "0"))
        except ValueError:
            raise web.HTTPBadRequest(text="since is a number of seconds") from None
        found = gate.traffic.failure(
            request.match_info["sandbox_id"], request.query.get("incarnation", ""), since
        )
        if found is None:
            return web.Response(status=204)
        return web.json_response(asdict(found))

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=gate.traffic.metrics())

    app = web.Application(client_max_size=_TABLE_MAX)
    app.router.add_put("/table", put_table)
    app.router.add_patch("/table", put_entries)
    app.router.add_delete("/table/{sandbox_id}", delete_entry)
    app.router.add_get("/health", health)
    app.router.add_get("/exits", exits)
    app.router.add_get("/failures/{sandbox_id}", failure)
    app.router.add_get("/metrics", metrics)
    return app


def _parsed(model: type[_Model], body: bytes) -> _Model:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_context=False, include_url=False)
        text = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in problems[:5])
        raise web.HTTPBadRequest(text=text) from None
