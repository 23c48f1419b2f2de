"""Runs inside a sandbox, by ``docker exec``: the same CLI, spoken to on its stdin, with no Hutch.

Each line on standard input is a provider; each answer is the milliseconds of one more turn of its
one session, from the prompt's write to the CLI's word that the turn is over. Hutch's own drivers
speak to the CLIs, so that both sides of the comparison start and prompt them alike.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from hutch_runtime.providers import open_driver
from hutch_runtime.providers.base import Agent, Prompt
from hutch_runtime.settings import read_settings


class _NoLog:
    def emit(self, event_type: str, /, **fields: Any) -> None:
        pass


async def main() -> None:
    settings = read_settings()
    agents: dict[str, Agent] = {}
    while line := await asyncio.to_thread(sys.stdin.readline):
        request = json.loads(line)
        provider = request["provider"]
        if provider not in agents:
            agents[provider] = await open_driver(provider, settings.setup(provider)).spare()
        started = time.perf_counter()
        outcome = await agents[provider].prompt(Prompt(request["prompt"]), _NoLog())
        elapsed = (time.perf_counter() - started) * 1000
        answer = {"ms": elapsed, "stop_reason": outcome.stop_reason}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


asyncio.run(main())
