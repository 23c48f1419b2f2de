from __future__ import annotations

import multiprocessing
import os
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from hutch.errors import HostNotReady
from hutch.vault.key_file import KeyFile, _read_or_make


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "master-keys"


async def test_it_is_made_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        first = await KeyFile.open(path)
        await first.rotate()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [child.name for child in path.parent.iterdir()] == ["master-keys"]
    assert await (await KeyFile.open(path)).active() == await first.active()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o601])
async def test_one_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    await KeyFile.open(path)
    path.chmod(mode)
    with pytest.raises(HostNotReady) as raised:
        await KeyFile.open(path)
    assert f"chmod 600 {path}" in raised.value.hint
    path.chmod(0o600)
    await KeyFile.open(path)


async def test_damage_is_refused_and_never_repaired(path: Path) -> None:
    await KeyFile.open(path)
    good = path.read_text()
    key_id, _, encoded = good.splitlines()[1].partition(" ")
    for bad in ("", "# only a comment\n", good[:-10], f"mk-0123456789abcdef {encoded}\n", "\x00"):
        path.write_text(bad)
        with pytest.raises(HostNotReady) as raised:
            await KeyFile.open(path)
        assert encoded[:10] not in raised.value.message + raised.value.hint
        assert path.read_text() == bad
    path.write_text(good)
    assert await (await KeyFile.open(path)).active() == key_id


async def test_a_draft_left_by_a_crash_does_not_matter(path: Path) -> None:
    path.parent.mkdir(parents=True)
    draft = path.with_name(f".master-keys.{os.getpid()}")
    draft.write_text("half a ke")
    draft.chmod(0o666)
    file = await KeyFile.open(path)
    await file.rotate()
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_first_starts_at_once_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    together, found = context.Barrier(2), context.Queue()
    starting = [
        context.Process(target=_start_often, args=(tmp_path, together, found)) for _ in range(2)
    ]
    for process in starting:
        process.start()
    first, second = found.get(timeout=30), found.get(timeout=30)
    for process in starting:
        process.join(timeout=30)
    assert len(first) == 200
    assert first == second


def _start_often(directory: Path, together: Barrier, found: Queue[list[list[str]]]) -> None:
    ids = []
    for number in range(200):
        together.wait(timeout=20)
        ids.append([key.id for key in _read_or_make(directory / str(number) / "master-keys")])
    found.put(ids)
