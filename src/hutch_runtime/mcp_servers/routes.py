"""The endpoint of MCP servers."""

from __future__ import annotations

import json
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hutch_runtime.mcp_servers.service import Given, McpServers
from hutch_runtime.protocol import MCP_SERVERS_MAX_BYTES
from hutch_runtime.runs import Refused

_BODY_MAX: Final = 6 * MCP_SERVERS_MAX_BYTES


class McpServerRoutes:
    def __init__(self, servers: McpServers) -> None:
        self._servers = servers

    async def put(self, http: Request) -> Response:
        """``{servers: [{name, command?, args?, env?}]}``: all that there are to be."""
        body = b""
        async for part in http.stream():
            body += part
            if len(body) > _BODY_MAX:
                raise Refused("bad_request", "There is too much of it.")
        try:
            given = [_given(one) for one in json.loads(body)["servers"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise Refused("bad_request", "These are no MCP servers.") from None
        try:
            await self._servers.put(given)
        except OSError as error:
            said = f"The CLIs' configuration was not written: {error.strerror}"
            raise Refused("runtime_error", said) from None
        return JSONResponse({})


def _given(one: Any) -> Given:
    name, command = one["name"], one.get("command")
    args, env = one.get("args", []), one.get("env", {})
    texts = [name, *([] if command is None else [command]), *args, *env.keys(), *env.values()]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError
    return Given(name, command, tuple(args), dict(env))
