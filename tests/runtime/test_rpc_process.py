"""The one process of a driver that serves many sessions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hutch_runtime.home import Home
from hutch_runtime.providers.base import AgentStartFailed, Setup
from hutch_runtime.providers.rpc_process import RpcProcess, SharedProcess


async def test_one_that_hangs_at_its_start_is_closed_at_once(tmp_path: Path) -> None:
    """As Gemini CLI does for a minute, where an MCP server of the user's does not answer."""
    begun: list[RpcProcess] = []
    setup = Setup(("sleep", "60"), tmp_path, Home(tmp_path), "http://gateway", "key", {})

    async def begin() -> RpcProcess:
        process = RpcProcess("session", lambda *_: None)
        await process.start(setup, (), {"PATH": "/usr/bin:/bin"})
        begun.append(process)
        return process

    async def greet(process: RpcProcess) -> None:
        await process.connection.request("initialize", {}, timeout_s=None)

    shared = SharedProcess(begin, greet)
    starting = asyncio.create_task(shared.get())
    while not begun:
        await asyncio.sleep(0.01)
    async with asyncio.timeout(20):  # of the minute that a start has
        await shared.close()
        with pytest.raises(AgentStartFailed):
            await starting
    assert not begun[0].alive
