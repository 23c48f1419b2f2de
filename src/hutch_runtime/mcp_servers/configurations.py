"""What stands in each CLI's configuration for a list of MCP servers, beside whatever else is there.

Claude Code and Gemini CLI keep theirs as JSON; the names that we wrote before are given, so that
those go. Codex has a block of TOML with marks around it. A server of the same name that the user
wrote into Codex's file stays, and ours is left out there.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hutch_runtime.providers.base import MCP_CALL_S, MCP_START_S

# Gemini CLI has one limit for a server's start and for a call. It waits for one that hangs before
# it is ready and again before a session, which has to be within a minute each.
GEMINI_S: Final = 30
_BEGIN: Final = "# >>> MCP servers of Hutch: changes in here are lost"
_END: Final = "# <<< MCP servers of Hutch"
_BLOCK: Final = re.compile(
    rf"\n*^{re.escape(_BEGIN)}$.*?(^{re.escape(_END)}$\n?|\Z)", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Stdio:
    """A program inside the sandbox."""

    name: str
    command: str
    args: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Http:
    """A server outside, at the gateway's path for it, where its secrets are put in."""

    name: str
    url: str
    headers: Mapping[str, str]


Server = Stdio | Http


def claude(settings: dict[str, Any], servers: Sequence[Server], former: Collection[str]) -> None:
    """Change ``~/.claude.json``'s content."""
    settings["mcpServers"] = _kept(settings, former) | {
        one.name: {"type": "http", "url": one.url, "headers": dict(one.headers)}
        if isinstance(one, Http)
        else {
            "type": "stdio",
            "command": one.command,
            "args": list(one.args),
            "env": dict(one.env),
        }
        for one in servers
    }


def gemini(settings: dict[str, Any], servers: Sequence[Server], former: Collection[str]) -> None:
    """Change ``~/.gemini/settings.json``'s content."""
    settings["mcpServers"] = _kept(settings, former) | {
        one.name: {"httpUrl": one.url, "headers": dict(one.headers), "timeout": GEMINI_S * 1000}
        if isinstance(one, Http)
        else {
            "command": one.command,
            "args": list(one.args),
            "env": dict(one.env),
            "timeout": GEMINI_S * 1000,
        }
        for one in servers
    }


def codex(config: str, servers: Sequence[Server]) -> str:
    """What ``~/.codex/config.toml`` is to hold."""
    rest = _BLOCK.sub("\n", config)
    taken = _names(rest)
    block = "\n".join(_table(one) for one in servers if one.name not in taken)
    if not block:
        return rest
    whole = f"{rest.rstrip()}\n\n{_BEGIN}\n{block}{_END}\n".lstrip()
    # Codex does not start with a file that it cannot read: rather without ours.
    return whole if _parsed(whole) is not None or _parsed(rest) is None else rest


def _kept(settings: Mapping[str, Any], former: Collection[str]) -> dict[str, Any]:
    found = settings.get("mcpServers")
    servers = found if isinstance(found, dict) else {}
    return {name: server for name, server in servers.items() if name not in former}


def _names(config: str) -> Collection[str]:
    found = (_parsed(config) or {}).get("mcp_servers")
    return found if isinstance(found, dict) else ()


def _parsed(config: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(config)
    except (ValueError, RecursionError):
        return None


def _table(server: Server) -> str:
    place = f"mcp_servers.{_quoted(server.name)}"
    lines = [
        f"[{place}]",
        f"startup_timeout_sec = {MCP_START_S}",
        f"tool_timeout_sec = {MCP_CALL_S}",
    ]
    if isinstance(server, Http):
        pairs, below = server.headers, "http_headers"
        lines.append(f"url = {_quoted(server.url)}")
    else:
        pairs, below = server.env, "env"
        lines.append(f"command = {_quoted(server.command)}")
        lines.append(f"args = [{', '.join(map(_quoted, server.args))}]")
    lines.append(f"[{place}.{below}]")
    lines += [f"{_quoted(name)} = {_quoted(value)}" for name, value in pairs.items()]
    return "\n".join((*lines, ""))


def _quoted(text: str) -> str:
    # JSON's strings are TOML's basic strings, but for one character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
