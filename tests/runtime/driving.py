"""A driver with the real CLI, and a turn that keeps what it is told."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from hutch_runtime.home import Home
from hutch_runtime.protocol import EVENT_TYPES, EventType, Provider
from hutch_runtime.providers.base import Setup
from tests.clis import cli_argv


class Log:
    """A ``Turn``."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._heard = asyncio.Event()

    def emit(self, event_type: EventType, /, **fields: Any) -> None:
        assert event_type in EVENT_TYPES
        assert event_type != "unparsed", fields
        self.events.append((event_type, fields))
        self._heard.set()

    def types(self) -> list[str]:
        return [event_type for event_type, _ in self.events]

    def of(self, event_type: str) -> list[dict[str, Any]]:
        return [fields for seen, fields in self.events if seen == event_type]

    async def first(self, event_type: str) -> dict[str, Any]:
        """The first event of that type, as soon as there is one."""
        while not self.of(event_type):
            self._heard.clear()
            await self._heard.wait()
        return self.of(event_type)[0]


def make_setup(provider: Provider, directory: Path, gateway_url: str) -> Setup:
    home, workspace = directory / "home", directory / "workspace"
    home.mkdir(exist_ok=True)
    workspace.mkdir(exist_ok=True)
    return Setup(
        argv=tuple(cli_argv(provider)),
        workspace=workspace,
        home=Home(home),
        gateway_url=gateway_url,
        placeholder_key="hutch-placeholder",
        environment={"PATH": os.environ["PATH"], "HOME": str(home), "NO_PROXY": "127.0.0.1"},
    )
