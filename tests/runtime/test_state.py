"""Packing and unpacking home and workspace, with the real tar."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hutch_runtime.agents import Pool
from hutch_runtime.identity import Identity
from hutch_runtime.protocol import LOGIN_FILES
from hutch_runtime.state import State
from hutch_runtime.tar import TarFailed
from tests.runtime.fakes import EchoDriver


def state_of(root: Path, driver: EchoDriver | None = None) -> State:
    for name in ("home", "workspace"):
        (root / name).mkdir(parents=True)
    pool = Pool({"claude": driver or EchoDriver()}, prewarm=(), idle_s=900)
    return State(root / "home", root / "workspace", pool, Identity())


async def packed(state: State) -> bytes:
    return b"".join([piece async for piece in state.pack()])


async def whole(content: bytes, *, step: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(content), step):
        yield content[at : at + step]


async def test_what_is_packed_is_unpacked_elsewhere(tmp_path: Path) -> None:
    driver = EchoDriver()
    here, there = state_of(tmp_path / "here", driver), state_of(tmp_path / "there")
    content = os.urandom(3_000_000)
    (tmp_path / "here/workspace/big").write_bytes(content)
    (tmp_path / "here/home/.config").mkdir(mode=0o700)
    (tmp_path / "here/home/.config/a b\n*?[c").write_text("x")
    (tmp_path / "here/home/out").symlink_to("/etc/passwd")
    (tmp_path / "there/workspace/big").write_text("an older one")
    await there.unpack(whole(await packed(here)))
    assert (tmp_path / "there/workspace/big").read_bytes() == content
    assert (tmp_path / "there/home/.config/a b\n*?[c").read_text() == "x"
    assert (tmp_path / "there/home/out").readlink() == Path("/etc/passwd")
    assert driver.rests == 1


async def test_logins_stay_out(tmp_path: Path) -> None:
    here, there = state_of(tmp_path / "here"), state_of(tmp_path / "there")
    for name in LOGIN_FILES.values():
        for part in ("home", "workspace"):
            path = tmp_path / "here" / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("a token of theirs")
    await there.unpack(whole(await packed(here)))
    for name in LOGIN_FILES.values():
        assert not (tmp_path / "there/home" / name).exists()
        assert (tmp_path / "there/workspace" / name).exists()  # a file like any other


@pytest.mark.parametrize("harm", ["nonsense", "cut"])
async def test_a_broken_archive_is_said(tmp_path: Path, harm: str) -> None:
    state = state_of(tmp_path)
    (tmp_path / "workspace/big").write_bytes(bytes(5_000_000))
    content = await packed(state)
    broken = os.urandom(2_000_000) if harm == "nonsense" else content[: len(content) // 2]
    with pytest.raises(TarFailed, match="tar: "):
        await state.unpack(whole(broken, step=100_000))


async def test_an_archive_that_leads_out_stays_inside(tmp_path: Path) -> None:
    """Not a wall, for the container is one; but a name like this is never what a user meant."""
    state = state_of(tmp_path / "root")
    evil = tmp_path / "evil"
    evil.mkdir()
    tar = await asyncio.create_subprocess_exec(
        "tar",
        "-cPf",
        str(evil / "a.tar"),
        "-C",
        str(evil),
        "--transform=s,^,../,",
        ".",
    )
    await tar.wait()
    with pytest.raises(TarFailed):
        await state.unpack(whole((evil / "a.tar").read_bytes()))


async def test_nothing_is_left_running(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    (tmp_path / "workspace/big").write_bytes(os.urandom(20_000_000))
    pieces = state.pack()
    assert await anext(pieces)
    await pieces.aclose()

    async def breaks() -> AsyncIterator[bytes]:
        yield b"x" * 100
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await state.unpack(breaks())
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert [c for c in children if b"tar" in Path(f"/proc/{c}/cmdline").read_bytes()] == []
