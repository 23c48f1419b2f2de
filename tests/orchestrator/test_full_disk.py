"""The disk of the data directory is full, and then it is not: bounded, reported, nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TextIO, cast

import pytest
import structlog

from hutch.api.errors import _STATUS
from hutch.app import Hutch
from hutch.clock import SystemClock
from hutch.control.disk import Disk
from hutch.errors import StorageFull
from hutch.log_output import LogOutput
from hutch.runs import dispatch
from hutch.runs.service import NewRun
from tests.orchestrator.conftest import World, log_of, new_user, run_to_end
from tests.orchestrator.runtime import waits_for_release
from tests.orchestrator.test_runs import assert_whole

_SIZE = "4m"


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own; the world's data directory is in it."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """PostgreSQL has a disk of its own."""
    return f"sqlite:///{tmp_path / 'hutch.db'}"


def _fill(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            os.write(descriptor, b"x" * 4096)


@asynccontextmanager
async def full(disk: Path) -> AsyncIterator[None]:
    ballast = disk / "ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        _fill(descriptor)
        yield
    finally:
        os.close(descriptor)
        ballast.unlink()


async def test_what_was_accepted_waits_for_room_and_nothing_new_is_accepted(
    world: World, hutch: Hutch, user_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_STORE_AGAIN_S", 0.05)
    await run_to_end(hutch, user_id)  # its sandbox is there
    world.runtime.script = waits_for_release
    run = await hutch.runs.submit(user_id, NewRun("claude", "on"))
    while not world.runtime.runs.get(run.id):
        await asyncio.sleep(0.01)
    async with full(tmp_path):
        world.runtime.release.set()
        await asyncio.sleep(0.3)
        with pytest.raises(StorageFull):
            await hutch.runs.submit(user_id, NewRun("claude", "more"))
        assert (await hutch.runs.get(user_id, run.id)).state == "running"
        assert len(await hutch.sandboxes.all()) == 1  # reading goes on
    ended = await asyncio.wait_for(hutch.runs.finished(user_id, run.id), 5)
    assert (ended.state, ended.text) == ("succeeded", "beforeafter")
    assert_whole(await log_of(hutch, ended))
    assert world.runtime.executions.count(run.id) == 1
    assert (await run_to_end(hutch, user_id)).state == "succeeded"


async def test_a_sandbox_asked_for_on_a_full_disk_is_there_once_it_is_not(
    world: World, hutch: Hutch, user_id: str, tmp_path: Path
) -> None:
    async with full(tmp_path):
        with pytest.raises(StorageFull):
            await hutch.sandboxes.ensure(user_id)
    assert (await hutch.sandboxes.ensure(user_id)).observed == "running"
    assert len(await world.backend.list()) == 1
    assert await new_user(hutch, "another")


async def test_the_alert_is_there_while_there_is_little_room(tmp_path: Path) -> None:
    free = [60]  # of 1,000: 5 % are the limit, 10 % enough again
    disk = Disk(tmp_path, SystemClock(), room=lambda _: (free[0], 1000))
    seen = []
    for free[0] in (60, 49, 51, 99, 100, 51):
        await disk.run()
        seen.append([alert.what for alert in disk.alerts()])
    assert seen == [[], ["disk_low"], ["disk_low"], ["disk_low"], [], []]


def test_a_full_disk_has_its_own_status() -> None:
    assert next(status for kind, status in _STATUS if issubclass(StorageFull, kind)) == 507


def test_a_log_that_cannot_be_written_fails_nobody(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as good, Path("/dev/full").open("wb") as bad:
        output = LogOutput(good.fileno())
        log = structlog.WriteLogger(cast("TextIO", output))
        log.info("before")
        kept = os.dup(good.fileno())
        os.dup2(bad.fileno(), good.fileno())
        log.info("lost")
        log.info("lost too")
        os.dup2(kept, good.fileno())
        log.info("after")
        os.close(kept)
    before, told, after = path.read_text().splitlines()
    assert (before, after) == ("before", "after")
    assert json.loads(told) == {"event": "log.lost", "level": "warning", "lines": 2}
