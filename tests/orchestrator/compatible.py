"""What the tests of the compatible endpoints share: scripts, and waiting for a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from hutch.app import Hutch
from hutch.runs.models import Run
from tests.orchestrator.conftest import World
from tests.orchestrator.runtime import ScriptedRun, finished


async def works(_run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Two blocks of text, and a tool between them."""
    yield _run.started()
    yield "reasoning.delta", {"text": "hm"}
    yield "text.delta", {"text": "let me "}
    yield "text.delta", {"text": "look"}
    yield "text", {"text": "let me look"}
    yield (
        "tool.started",
        {"tool_id": "t1", "kind": "shell", "name": "Bash", "input": {"command": "ls"}},
    )
    yield "tool.finished", {"tool_id": "t1", "ok": True, "output": "a.txt"}
    yield "text.delta", {"text": "one file"}
    yield "text", {"text": "one file"}
    yield (
        "usage",
        {"input_tokens": 30, "output_tokens": 7, "cached_tokens": 20, "cost_usd": None},
    )
    yield finished(text="one file")


async def is_limited(_run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield _run.started()
    yield "text.delta", {"text": "a"}
    error = {"code": "provider_rate_limited", "message": "429 from the model API"}
    yield finished("error", error=error)


async def until_a_run(hutch: Hutch, user_id: str, state: str) -> Run:
    async with asyncio.timeout(20):
        while True:
            found = await hutch.runs.page(user_id, session_id=None, before=None, limit=1)
            if found and found[0].state == state:
                return found[0]
            await asyncio.sleep(0.02)


def prompts(world: World) -> list[str]:
    return [run.prompt for run in world.runtime.runs.values()]
