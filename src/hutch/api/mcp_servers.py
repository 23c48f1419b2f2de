from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from hutch.api.caller import CallerDep, HutchDep
from hutch.api.shapes_mcp import McpServerAnswer, McpServerPage, McpServerRequest, answer
from hutch.mcp_servers.models import NAME_PATTERN

router = APIRouter(prefix="/v1/mcp-servers", tags=["mcp-servers"])

Name = Annotated[str, Path(pattern=NAME_PATTERN)]


@router.get("")
async def list_mcp_servers(hutch: HutchDep, caller: CallerDep) -> McpServerPage:
    """The servers whose tools the user's agents have. Secrets are named, and not shown."""
    servers = await hutch.mcp_servers.all(caller.user_id)
    return McpServerPage(mcp_servers=[answer(server) for server in servers])


@router.get("/{name}")
async def get_mcp_server(name: Name, hutch: HutchDep, caller: CallerDep) -> McpServerAnswer:
    return answer(await hutch.mcp_servers.get(caller.user_id, name))


@router.put("/{name}")
async def put_mcp_server(
    name: Name, asked: McpServerRequest, hutch: HutchDep, caller: CallerDep
) -> McpServerAnswer:
    """Store or replace it; the next run has it, also in a session that goes on."""
    server = asked.server(name, at=hutch.clock.now())
    return answer(await hutch.mcp_servers.put(caller.user_id, server))


@router.delete("/{name}", status_code=204)
async def delete_mcp_server(name: Name, hutch: HutchDep, caller: CallerDep) -> None:
    """At once from the vault and from the gateway; from the CLIs before the next run."""
    await hutch.mcp_servers.delete(caller.user_id, name)
