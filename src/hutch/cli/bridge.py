"""``hutch acp`` and ``hutch mcp``: started by an editor, or by another agent."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import typer

from hutch.cli.profile import user_client_later
from hutch.cli.providers import ProviderArgument
from hutch.config import Settings


def acp(
    provider: ProviderArgument,
    model: Annotated[str | None, typer.Option(help="A model that the CLI knows.")] = None,
    permission_mode: Annotated[
        Literal["auto", "ask"],
        typer.Option(help="ask: the editor asks you what the agent may change."),
    ] = "auto",
    timeout: Annotated[
        float | None, typer.Option(min=1, help="Seconds of each turn; the service's own limit.")
    ] = None,
) -> None:
    """Serve an editor that speaks the Agent Client Protocol, on standard input and output."""
    from acp import run_agent  # noqa: PLC0415  only this command needs it

    from hutch.bridges.acp_agent import HutchAgent  # noqa: PLC0415  the same

    async def serve() -> None:
        async with user_client_later(Settings()) as client:
            agent: Any = HutchAgent(
                client, provider, model=model, mode=permission_mode, timeout_s=timeout
            )
            await run_agent(agent)

    asyncio.run(serve())


def mcp() -> None:
    """Serve an agent that speaks the Model Context Protocol, on standard input and output."""
    from hutch.bridges.mcp_server import server  # noqa: PLC0415  only this command needs it

    async def serve() -> None:
        async with user_client_later(Settings()) as client:
            await server(client).run_stdio_async()

    asyncio.run(serve())
