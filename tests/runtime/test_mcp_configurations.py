"""What stands in the CLIs' configuration for MCP servers, and what stays of the user's."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hutch_runtime.home import Home
from hutch_runtime.mcp_servers.configurations import Http, Server, Stdio, codex
from hutch_runtime.mcp_servers.service import Given, McpServers
from hutch_runtime.protocol import Provider
from hutch_runtime.providers.base import Setup

NOTES = Given("notes", "python3", ("notes.py",), {"TOKEN": "t"})
FAR = Given("far", None, (), {})
TEXT = st.text(max_size=20).filter(lambda text: text.isprintable() or text.isascii())


class Place:
    """A home, and which agents were started again."""

    def __init__(self, path: Path, gateway: str = "http://10.0.0.1:3128") -> None:
        self.path = path
        self.renewed: list[Provider] = []
        home = Home(path)
        setup = Setup(("claude",), path, home, gateway, "hutch-placeholder-1", {})

        async def renew(provider: Provider) -> None:
            self.renewed.append(provider)

        self.servers = McpServers(home, setup, renew)

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    def toml(self) -> dict[str, Any]:
        return tomllib.loads((self.path / ".codex/config.toml").read_text())


async def test_all_three_get_them_and_the_users_own_stay(tmp_path: Path) -> None:
    (tmp_path / ".claude.json").write_text('{"a": 1, "mcpServers": {"own": {"command": "x"}}}')
    (tmp_path / ".gemini").mkdir()
    (tmp_path / ".gemini/settings.json").write_text('{"mcpServers": {"own": {}}, "ui": {}}')
    (tmp_path / ".codex").mkdir()
    (tmp_path / ".codex/config.toml").write_text('model = "m"\n[mcp_servers.own]\ncommand = "x"\n')
    place = Place(tmp_path)
    await place.servers.put([NOTES, FAR])
    assert place.renewed == ["claude", "codex", "gemini"]
    claude, gemini, toml = (
        place.json(".claude.json"),
        place.json(".gemini/settings.json"),
        place.toml(),
    )
    url = "http://10.0.0.1:3128/mcp/far"
    assert claude["mcpServers"].keys() == {"own", "notes", "far"}
    assert claude["a"] == 1
    assert claude["mcpServers"]["far"] == {"type": "http", "url": url, "headers": {}}
    assert gemini["mcpServers"]["far"]["httpUrl"] == toml["mcp_servers"]["far"]["url"] == url
    assert toml["mcp_servers"].keys() == {"own", "notes", "far"}
    for found in (claude["mcpServers"], gemini["mcpServers"], toml["mcp_servers"]):
        assert (found["notes"]["command"], found["notes"]["args"]) == ("python3", ["notes.py"])
        # The way out, which Codex and Gemini CLI keep from the servers that they start.
        assert (
            found["notes"]["env"].items()
            >= {"TOKEN": "t", "HTTPS_PROXY": "http://10.0.0.1:3128"}.items()
        )
    await place.servers.put([NOTES, FAR])
    assert len(place.renewed) == 3, "what is as it was needs no start"
    # Another runtime, as after the files were put away and came back.
    later = Place(tmp_path)
    await later.servers.put([])
    assert len(later.renewed) == 3
    assert later.json(".claude.json")["mcpServers"] == {"own": {"command": "x"}}
    assert later.json(".gemini/settings.json") == {"mcpServers": {"own": {}}, "ui": {}}
    assert later.toml() == {"model": "m", "mcp_servers": {"own": {"command": "x"}}}


async def test_where_sandboxes_share_an_address_the_placeholder_tells_whose_it_is(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path, "http://127.0.0.1:3128")
    await place.servers.put([FAR])
    headers = {"Authorization": "Bearer hutch-placeholder-1"}
    assert place.json(".claude.json")["mcpServers"]["far"]["headers"] == headers
    assert place.toml()["mcp_servers"]["far"]["http_headers"] == headers


async def test_files_that_nobody_can_read_are_begun_anew(tmp_path: Path) -> None:
    (tmp_path / ".claude.json").write_text("[" * 100_000)
    (tmp_path / ".gemini").mkdir()
    (tmp_path / ".gemini/settings.json").symlink_to("/etc/passwd")
    place = Place(tmp_path)
    await place.servers.put([NOTES])
    assert place.json(".claude.json")["mcpServers"].keys() == {"notes"}
    assert place.json(".gemini/settings.json")["mcpServers"].keys() == {"notes"}


def test_codex_keeps_a_server_of_that_name_and_a_file_that_it_can_read() -> None:
    servers: list[Server] = [Stdio("notes", "python3", (), {}), Http("far", "http://g/mcp/far", {})]
    own = '[mcp_servers.notes]\ncommand = "mine"\n'
    assert tomllib.loads(codex(own, servers))["mcp_servers"]["notes"] == {"command": "mine"}
    inline = 'mcp_servers = { other = { command = "x" } }\n'
    assert codex(inline, servers) == inline


@given(name=TEXT, value=TEXT, argument=TEXT)
def test_codex_reads_back_what_was_written(name: str, value: str, argument: str) -> None:
    written = codex("", [Stdio("one", "run", (argument,), {name: value})])
    found = tomllib.loads(written)["mcp_servers"]["one"]
    assert (found["args"], found["env"]) == ([argument], {name: value})
    assert codex(written, []).strip() == ""
