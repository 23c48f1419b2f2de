"""Put the user's MCP servers into the CLIs' files, and start agents again that had others.

A CLI reads its servers when it starts. The agents' sessions outlive them: the next turn takes them
up with the new ones.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from hutch_runtime.home import Home
from hutch_runtime.mcp_servers.configurations import Http, Server, Stdio, claude, codex, gemini
from hutch_runtime.protocol import MIB, PROVIDERS, Provider
from hutch_runtime.providers.base import SHARED_HOST, Setup

CHANGED: Final = "the user's MCP servers were changed"
_OURS: Final = ".config/hutch/mcp-servers.json"  # the names that we wrote
_CLAUDE: Final = ".claude.json"
_CODEX: Final = ".codex/config.toml"
_GEMINI: Final = ".gemini/settings.json"
_FILE_MAX: Final = 8 * MIB


@dataclass(frozen=True, slots=True)
class Given:
    """One server as the orchestrator tells of it. Without ``command`` it is one outside, whose
    address and secrets the gateway knows.
    """

    name: str
    command: str | None
    args: tuple[str, ...]
    env: Mapping[str, str]


class McpServers:
    def __init__(
        self, home: Home, setup: Setup, renew: Callable[[Provider], Awaitable[None]]
    ) -> None:
        """``renew`` has a provider's agents started again."""
        self._home = home
        self._setup = setup
        self._renew = renew
        self._given: Sequence[Given] | None = None
        self._changing = asyncio.Lock()

    async def put(self, given: Sequence[Given]) -> None:
        """In place of those before. Raises ``OSError``."""
        async with self._changing:
            if given == self._given:
                return
            self._given = None  # half of it may be done
            self._write([self._server(one) for one in given])
            for provider in PROVIDERS:
                await self._renew(provider)
            self._given = given

    def _server(self, given: Given) -> Server:
        if given.command is not None:
            # Two of the CLIs keep these from the servers that they start.
            return Stdio(given.name, given.command, given.args, {**self._setup.proxy, **given.env})
        url, headers = f"{self._setup.gateway_url}/mcp/{given.name}", {}
        if urlsplit(url).hostname == SHARED_HOST:
            headers = {"Authorization": f"Bearer {self._setup.placeholder_key}"}
        return Http(given.name, url, headers)

    def _write(self, servers: Sequence[Server]) -> None:
        names = [server.name for server in servers]
        before = self._read(_OURS).get("names")
        former = {name for name in before if isinstance(name, str)} if before else set()
        former |= set(names)
        # First, for what is named and not there does no harm.
        self._home.write(_OURS, json.dumps({"names": sorted(former)}).encode())
        for name, change in ((_CLAUDE, claude), (_GEMINI, gemini)):
            settings = self._read(name)
            change(settings, servers, former)
            self._home.write(name, json.dumps(settings, indent=2).encode())
        self._home.write(_CODEX, codex(self._text(_CODEX), servers).encode())
        self._home.write(_OURS, json.dumps({"names": names}).encode())

    def _read(self, name: str) -> dict[str, Any]:
        """Nothing for what is not there, or that its CLI could not read either."""
        try:
            found = json.loads(self._text(name))
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def _text(self, name: str) -> str:
        try:
            return self._home.read(name, _FILE_MAX).decode(errors="replace")
        except OSError:
            return ""
