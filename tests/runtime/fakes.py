"""Drivers that are named for what they do; no process behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from hutch_runtime.protocol import Options, Provider
from hutch_runtime.providers.base import (
    PLAIN,
    AgentDied,
    AgentStartFailed,
    Outcome,
    Prompt,
    SessionNotFound,
    Turn,
)


class EchoAgent:
    """Answers with the prompt; waits for its end when the prompt is "wait"."""

    def __init__(self, session: str, resumed: Literal["resumed", "replayed"] | None) -> None:
        self.session = session
        self.resumed = resumed
        self.pid: int | None = 4711
        self.prompts: list[str] = []
        self.asked: list[Prompt] = []
        self.options = PLAIN  # that it was made with
        self._gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._cancelled = asyncio.Event()

    @property
    def alive(self) -> bool:
        return not self._gone.done()

    async def prompt(self, prompt: Prompt, turn: Turn) -> Outcome:
        text = prompt.text
        self.asked.append(prompt)
        self.prompts.append(text)
        turn.emit("text", text=text)
        if text == "bug":
            raise KeyError("a secret of the user")
        if text == "wait":
            waiting = asyncio.ensure_future(self._cancelled.wait())
            gone = asyncio.ensure_future(self.gone())
            await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            gone.cancel()
            if self._gone.done():
                raise AgentDied(self._gone.result())
            self._cancelled.clear()
            return Outcome("cancelled")
        return Outcome("end_turn", text=text)

    async def cancel(self) -> None:
        self._cancelled.set()

    async def gone(self) -> str:
        return await asyncio.shield(self._gone)

    async def close(self) -> None:
        self.die("closed")

    def die(self, reason: str = "killed by SIGKILL") -> None:
        if not self._gone.done():
            self._gone.set_result(reason)


class EchoDriver:
    provider: Provider = "claude"

    def __init__(self, *, shares_process: bool = False) -> None:
        self.shares_process = shares_process
        self.keeps_options = shares_process
        self.forks: list[str] = []
        self.made: list[EchoAgent] = []
        self.closed = False
        self.rests = 0

    async def spare(self, options: Options = PLAIN) -> EchoAgent:
        return self._make(f"session-{len(self.made)}", None, options)

    async def resume(self, session: str, options: Options = PLAIN) -> EchoAgent:
        if not any(agent.session == session for agent in self.made):
            raise SessionNotFound(session)
        return self._make(session, "resumed", options)

    def makes_own(self, options: Options) -> bool:
        return bool(options.given)

    async def fork(self, session: str) -> str:
        if not any(agent.session == session for agent in self.made):
            raise SessionNotFound(session)
        self.forks.append(session)
        return f"{session}-fork"

    async def rest(self) -> None:
        self.rests += 1

    async def close(self) -> None:
        self.closed = True

    def _make(
        self, session: str, resumed: Literal["resumed"] | None, options: Options
    ) -> EchoAgent:
        self.made.append(EchoAgent(session, resumed))
        self.made[-1].options = options
        return self.made[-1]


class DriverThatCannotStart(EchoDriver):
    """Until ``works`` says so."""

    def __init__(self, works: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self.tries = 0
        self._works = works

    async def spare(self, options: Options = PLAIN) -> EchoAgent:
        self.tries += 1
        if not self._works():
            raise AgentStartFailed("no such program")
        return await super().spare(options)
