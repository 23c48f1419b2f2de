"""Terminals of the runtime, over real sockets and PTYs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hutch_runtime import frames
from hutch_runtime.frames import OUTPUT_WINDOW_BYTES, SCROLLBACK_BYTES, FrameError, FrameReader
from hutch_runtime.home import Home
from hutch_runtime.providers.base import Setup
from hutch_runtime.terminals.environment import write_claude_settings
from hutch_runtime.terminals.ring import Ring
from tests.runtime.runtime_process import KEY, Runtime, running_runtime
from tests.runtime.terminals import Terminals

SHELL = ("/bin/bash", "--norc", "--noprofile")
ENDLESS = (
    "/bin/sh",
    "-c",
    "read x; while :; do echo 0123456789012345678901234567890123456789; done",
)


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[Runtime]:
    async with running_runtime(tmp_path, "http://127.0.0.1:9", prewarm="") as running:
        yield running


@pytest.fixture
async def terminals(runtime: Runtime) -> AsyncIterator[Terminals]:
    async with aiohttp.ClientSession() as http:
        yield Terminals(str(runtime.http.base_url).rstrip("/"), KEY, http)


async def test_a_shell_with_a_size_that_changes_and_an_exit_code(terminals: Terminals) -> None:
    assert (await terminals.open("one", *SHELL, rows=30, columns=100))[0] == 200
    assert (await terminals.open("one", "false"))[0] == 200  # asked twice: the same one
    async with terminals.attach("one") as shell:
        shell.type(b"stty size; tty; echo $TERM\r")
        shown = await shell.until(b"\nxterm\r\n")
        assert b"30 100\r\n" in shown
        assert re.search(rb"/dev/pts/[0-9]+\r\n", shown)
        assert b"no job control" not in shown
        shell.say("resize", rows=41, columns=123)
        for rows in (0, -1, 10**9, "7", None, True):
            shell.say("resize", rows=rows, columns=80)
        shell.say("nonsense", more=1)
        shell.type(b"stty size; exit 7\r")
        end = await shell.the_end()
        assert end == {"type": "exit", "code": 7, "reason": ""}
        assert b"41 123\r\n" in shell.output
    # Cut off just before the end: it can still be read.
    async with terminals.attach("one", after=shell.offset - 5) as again:
        assert (await again.the_end())["code"] == 7
        assert again.output == shell.output[-5:]
    assert await terminals.list() == []


async def test_cut_anywhere_it_goes_on_without_a_gap(terminals: Terminals) -> None:
    """Input and output both, and what was typed while nobody could hear it arrives once."""
    await terminals.open("one", "/bin/sh", "-c", "stty -echo; echo begin; exec cat")
    lines = [b"line %d\n" % number for number in range(60)]
    seen = bytearray()
    async with terminals.attach("one") as first:
        seen += await first.until(b"begin\r\n")
    typed = b"".join(lines)
    sent = 0
    while len(seen) < len(typed) + len(lines) + len(b"begin\r\n"):
        async with terminals.attach("one", after=len(seen)) as cat:
            assert cat.ready["lost"] == 0
            sent = cat.ready["input"]
            cat.type(typed[sent : sent + 97])
            cat.say("seen", offset=len(seen))
            while not cat.output:  # some may have come with the beginning
                await cat.read()
            seen += cat.output
    assert bytes(seen) == b"begin\r\n" + typed.replace(b"\n", b"\r\n")


async def test_a_second_connection_takes_over(terminals: Terminals) -> None:
    await terminals.open("one", *SHELL)
    async with terminals.attach("one") as first, terminals.attach("one") as second:
        assert await first.the_end() == {"type": "replaced"}
        first.type(b"echo from-the-first\r")
        second.type(b"echo from''-the-second\r")
        assert b"from-the-first" not in await second.until(b"from-the-second")
    assert [one["attached"] for one in await terminals.list()] == [False]


@pytest.mark.parametrize("says_what_it_saw", [False, True])
async def test_a_flood_waits_for_a_slow_reader_and_drains_without_one(
    terminals: Terminals, *, says_what_it_saw: bool
) -> None:
    await terminals.open("one", *ENDLESS)

    async def produced() -> int:
        """Once it grows no more."""
        last = -1
        while last != (now := (await terminals.list())[0]["offset"]):
            last = now
            await asyncio.sleep(0.5)
        return last

    async with terminals.attach("one") as slow:
        if says_what_it_saw:
            slow.say("seen", offset=0)
        slow.type(b"\r")
        if says_what_it_saw:
            while len(slow.output) < OUTPUT_WINDOW_BYTES:
                await slow.read()
            # Read, but not seen: only so much may lie on the way.
            assert await produced() <= OUTPUT_WINDOW_BYTES + 64 * frames.KIB
            slow.say("seen", offset=slow.offset)
            more = slow.offset + OUTPUT_WINDOW_BYTES // 2
            while slow.offset < more:
                await slow.read()
        else:
            # Not read: the connection's own buffers, and no more.
            assert await produced() < 16 * 2**20
    # Nobody there: it goes on, and the last of it is kept.
    while (await terminals.list())[0]["offset"] < slow.offset + 4 * SCROLLBACK_BYTES:
        await asyncio.sleep(0.05)
    async with terminals.attach("one", after=slow.offset) as late:
        lost, offset = late.ready["lost"], late.ready["offset"]
        assert lost > 0
        assert offset == slow.offset + lost
        await late.until(b"0123456789012345678901234567890123456789\r\n")
    assert await terminals.end("one") == 200


async def test_pipes_carry_bytes_and_drop_none(terminals: Terminals) -> None:
    every = bytes(range(256)) * 2048  # 512 KiB: more than is kept
    await terminals.open("one", "/bin/cat", tty=False)
    came = bytearray()
    written = 0
    while len(came) < len(every):
        async with terminals.attach("one", after=len(came)) as cat:
            assert cat.ready["lost"] == 0
            sent = cat.ready["input"]
            cat.say("seen", offset=len(came))
            before = len(came)
            # So much, and then it is cut.
            while len(came) < min(before + 100_000, len(every)):
                if sent < len(every) and sent - written < frames.INPUT_WINDOW_BYTES:
                    cat.type(every[sent : sent + 10_000])
                    sent = min(sent + 10_000, len(every))
                    if sent == len(every):
                        cat.say("eof")
                await cat.read()
                came[before:] = cat.output
                written = max([written, *(c["input"] for c in cat.controls if "input" in c)])
                cat.say("seen", offset=len(came))
    assert bytes(came) == every
    async with terminals.attach("one", after=len(came)) as cat:
        assert (await cat.the_end())["code"] == 0


async def test_it_ends_when_nobody_comes_back_or_nothing_is_said(terminals: Terminals) -> None:
    await terminals.open("left", *SHELL, detached_s=0.3)
    await terminals.open("quiet", *SHELL, idle_s=1)
    # A shell that does not want to hear of its end.
    await terminals.open("deaf", "/bin/bash", "-c", "trap '' HUP; echo ready; sleep 100")
    async with terminals.attach("quiet") as quiet, terminals.attach("deaf") as deaf:
        await deaf.until(b"ready")
        assert 0 < (await quiet.heard("warning"))["ends_in_s"] <= 1
        end = await quiet.the_end()
        assert end["type"] == "exit"
        assert end["reason"] == "Nothing was typed or shown for 1 seconds."
        assert await terminals.end("deaf") == 200
        assert await deaf.the_end() == {"type": "exit", "code": 137, "reason": "It was ended."}
    while await terminals.list():
        await asyncio.sleep(0.05)
    async with terminals.attach("left") as left:
        assert (await left.the_end())["reason"].startswith("Nobody came back")


async def test_what_is_refused(terminals: Terminals, runtime: Runtime) -> None:
    refused: tuple[dict[str, Any], ...] = (
        {"terminal_id": "../x"},
        {"terminal_id": None},
        {"rows": 0},
        {"columns": 10**6},
        {"rows": True},
        {"tty": "yes"},
        {"term": 3},
        {"idle_s": 0},
        {"detached_s": "x"},
        {"command": []},
        {"command": [""]},
        {"command": ["a\0b"]},
        {"command": ["\ud800"]},
        {"command": "ls"},
        {"command": ["x" * 70_000]},
        {"command": ["x"] * 300},
    )
    for fields in refused:
        status, answer = await terminals.open("one", **fields)
        assert (status, answer["error"]["code"]) == (400, "bad_request"), fields
    assert (await runtime.http.post("/terminals/none/attach")).status_code == 404
    assert (await runtime.http.post("/terminals/none/attach?after=x")).status_code == 404
    assert await terminals.end("none") == 404
    assert await terminals.list() == []
    # A program that is not there: the terminal tells of it, as a shell would.
    assert (await terminals.open("gone", "/no/such/program"))[0] == 200
    async with terminals.attach("gone") as gone:
        assert (await gone.the_end())["code"] == 127
        assert b"/no/such/program" in gone.output
    for number in range(16):
        assert (await terminals.open(f"t{number}", *SHELL))[0] == 200
    status, answer = await terminals.open("t16", *SHELL)
    assert (status, answer["error"]["code"]) == (429, "too_many_terminals")
    # What is no frame ends the connection, and nothing else.
    async with terminals.attach("t0") as broken:
        broken._said.put_nowait(b"\x07nonsense")
        while await broken.read():
            pass
    async with terminals.attach("t0") as again:
        again.type(b"echo un''broken\r")
        await again.until(b"unbroken")


async def test_each_cli_is_told_of_its_gateway(terminals: Terminals, tmp_path: Path) -> None:
    await terminals.open("one", "/usr/bin/env", term="no-such-terminal")
    async with terminals.attach("one") as shell:
        assert (await shell.the_end())["code"] == 0
        given = dict(
            line.split("=", 1) for line in shell.output.decode().split("\r\n") if "=" in line
        )
    assert given["TERM"] == "xterm-256color"
    assert given["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:9/claude"
    assert given["GOOGLE_GEMINI_BASE_URL"] == "http://127.0.0.1:9/gemini"
    assert "http://127.0.0.1:9/codex/v1" in given["HUTCH_CODEX_OPTIONS"]
    assert {given[name] for name in ("ANTHROPIC_API_KEY", "GEMINI_API_KEY", "HUTCH_KEY")} == {
        "hutch-placeholder"
    }
    # None of the runtime's own.
    ours = {name for name in given if name.startswith("HUTCH_")}
    assert ours == {"HUTCH_KEY", "HUTCH_CODEX_OPTIONS"}
    assert (tmp_path / "home" / ".codex").is_dir()
    assert (tmp_path / "home" / ".gemini" / "settings.json").is_file()


def test_claude_asks_nobody_at_its_first_start(tmp_path: Path) -> None:
    setup = Setup(
        argv=("claude",),
        workspace=Path("/workspace"),
        home=Home(tmp_path),
        gateway_url="http://127.0.0.1:9",
        placeholder_key="hutch-placeholder-of-this-one",
        environment={},
    )
    mine = {"theme": "light", "mcpServers": {"x": {}}, "projects": {"/workspace": {"y": 1}}}
    (tmp_path / ".claude.json").write_text(json.dumps(mine))
    write_claude_settings(setup)
    written = json.loads((tmp_path / ".claude.json").read_text())
    assert written == {
        "theme": "light",
        "mcpServers": {"x": {}},
        "projects": {"/workspace": {"y": 1, "hasTrustDialogAccepted": True}},
        "hasCompletedOnboarding": True,
        "customApiKeyResponses": {"approved": ["laceholder-of-this-one"[-20:]], "rejected": []},
    }
    (tmp_path / ".claude.json").write_text("[")  # not ours to mend, and in nobody's way
    write_claude_settings(setup)
    assert json.loads((tmp_path / ".claude.json").read_text())["theme"] == "dark"


def test_frames_however_they_are_cut() -> None:
    stream = frames.frame(frames.DATA, b"abc") + frames.control("x", y=1) + frames.frame(0, b"")
    for size in range(1, len(stream) + 1):
        reader, found = FrameReader(), list[tuple[int, bytes]]()
        for start in range(0, len(stream), size):
            found += reader.feed(stream[start : start + size])
        assert found == [(0, b"abc"), (1, b'{"type": "x", "y": 1}'), (0, b"")]
    for wrong in (b"\x02\0\0\0\0", b"\0\xff\xff\xff\xff"):
        with pytest.raises(FrameError):
            list(FrameReader().feed(wrong))


def test_a_ring_keeps_the_end() -> None:
    ring = Ring(10)
    ring.append(b"abc")
    assert (ring.start, ring.end, ring.read(1, 10)) == (0, 3, b"bc")
    ring.append(b"x" * 100)
    assert (ring.start, ring.end) == (93, 103)
    assert ring.read(93, 4) == b"xxxx"
    assert ring.read(103, 4) == b""
