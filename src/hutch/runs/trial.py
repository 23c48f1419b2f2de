"""The contract with the CLIs of an image, tried in a sandbox of nobody's.

What is asked here is what every user's run stands on: the runtime speaks our protocol and knows
its CLIs' versions, and each CLI answers, uses a tool, remembers what was said, and says nothing
that the runtime does not know. Without the offline model the CLIs have been started, and nothing is
asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from typing import Any, Final

from hutch.ids import new_id
from hutch.runs.inbound import Inbound, parse_event
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.runtime_client import RuntimeClient, RuntimeRefused, RuntimeUnreachable
from hutch_runtime.protocol import PROTOCOL_VERSION, PROVIDERS, ProtocolError, Provider

TURN_WITHIN_S: Final = 60.0
SAID: Final = "a word that is tried"
# What it prints is not in the prompt; and Gemini CLI refuses $( ).
_SHELL: Final = "echo tried | tr a-z A-Z"
_EVENTS_MAX: Final = 1000  # of a turn that has a handful


class TrialFailed(Exception):
    """The message says what is wrong with the image."""


class Trial:
    def __init__(self, runtime: RuntimeClient) -> None:
        self._runtime = runtime

    async def check(self, sandbox: Sandbox, *, asked: AbstractSet[Provider]) -> None:
        """``asked``: whose API is the offline model, so that it costs nobody anything. Raises
        ``TrialFailed``.
        """
        try:
            _check_health(await self._runtime.health(sandbox))
            for provider in PROVIDERS:
                if provider in asked:
                    await self._check_turns(sandbox, provider)
        except RuntimeUnreachable as error:
            raise TrialFailed(f"The runtime broke off ({error}).") from None
        except RuntimeRefused as error:
            raise TrialFailed(f"The runtime refused: {error.message or error.status}") from None
        except ProtocolError as error:
            raise TrialFailed(f"The runtime sent {error}.") from None

    async def _check_turns(self, sandbox: Sandbox, provider: Provider) -> None:
        first = await self._turn(sandbox, provider, SAID, session=None)
        _expect(provider, first, "answer", kept=SAID in _text(first))
        session = str(_data(first, "run.started").get("session"))
        tool = await self._turn(sandbox, provider, f"[[tool:shell {_SHELL}]]", session=session)
        _expect(provider, tool, "run a command", kept="TRIED" in _text(tool))
        _expect(provider, tool, "tell of its tools", kept=bool(_data(tool, "tool.finished")))
        recall = await self._turn(sandbox, provider, "[[recall]]", session=session)
        _expect(provider, recall, "remember", kept=SAID in _text(recall))

    async def _turn(
        self, sandbox: Sandbox, provider: Provider, prompt: str, *, session: str | None
    ) -> list[Inbound]:
        run_id = new_id("run")
        events: list[Inbound] = []
        try:
            async with (
                asyncio.timeout(TURN_WITHIN_S),
                self._runtime.prompt(
                    sandbox,
                    run_id=run_id,
                    provider=provider,
                    prompt=prompt,
                    model=None,
                    session=session,
                ) as lines,
                aclosing(_parsed(lines, run_id)) as parsed,
            ):
                async for event in parsed:
                    events.append(event)
                    if event.type == "run.finished" or len(events) > _EVENTS_MAX:
                        break
        except TimeoutError:
            raise TrialFailed(
                f"{provider} did not end a turn within {TURN_WITHIN_S:g} seconds."
            ) from None
        return events


async def _parsed(lines: AsyncIterator[bytes], run_id: str) -> AsyncGenerator[Inbound]:
    async for line in lines:
        yield parse_event(line, run_id=run_id)


def _check_health(health: dict[str, Any]) -> None:
    spoken = health.get("protocol")
    if spoken != PROTOCOL_VERSION:
        raise TrialFailed(
            f"Its runtime speaks protocol {str(spoken)[:16]}, this service {PROTOCOL_VERSION}."
        )
    versions = health.get("cli")
    for provider in PROVIDERS:
        said = versions.get(provider) if isinstance(versions, dict) else None
        if not isinstance(said, str) or not said[:1].isdigit():
            raise TrialFailed(f"The runtime does not know its version of {provider}.")


def _expect(provider: Provider, events: list[Inbound], what: str, *, kept: bool) -> None:
    last = _data(events, "run.finished")
    if last.get("stop_reason") != "end_turn":
        error = last.get("error") or {}
        said = str(error.get("message") or last.get("stop_reason") or "the stream broke off")
        raise TrialFailed(f"{provider} did not {what}: {said[:300]}")
    unknown = _data(events, "unparsed")
    if unknown:
        line = str(unknown.get("line"))[:200]
        raise TrialFailed(f"{provider} says what its runtime does not know: {line}")
    if not kept:
        raise TrialFailed(f"{provider} did not {what}; it said: {_text(events)[:200]}")


def _data(events: list[Inbound], kind: str) -> dict[str, Any]:
    """Of the last event of that type; empty if there is none."""
    return next((event.data for event in reversed(events) if event.type == kind), {})


def _text(events: list[Inbound]) -> str:
    return str(_data(events, "run.finished").get("text", ""))
