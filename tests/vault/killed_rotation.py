"""Changes the master key in processes that are killed at one moment after another, and looks each
time whether everything that was ever sealed still opens.

    python -m tests.vault.killed_rotation DIRECTORY DATABASE lines|times MOMENTS

``lines``: before the Nth line of the vault's and the store's own code, spread evenly over a whole
change. ``times``: after a random time, so that the database and the file system are met midway.
Prints a JSON object. It has no threads of its own, and may therefore fork.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any

from sqlalchemy import func, insert, select

from hutch.clock import SystemClock
from hutch.store import database as store
from hutch.store import postgresql, sqlite
from hutch.store.database import Database
from hutch.store.open import open_database
from hutch.store.tables import data_keys as table
from hutch.store.tables import users
from hutch.vault import data_keys, key_file, keys
from hutch.vault.data_keys import DataKeys
from hutch.vault.key_file import KeyFile

TRACED = {module.__file__ for module in (data_keys, key_file, keys, store, sqlite, postgresql)}
USERS = 150  # two transactions
NEW_USERS = 4  # each time, who get their key while the master key changes


def main(directory: Path, url: str, how: str, moments: int) -> None:
    assert in_child(lambda: asyncio.run(prepare(directory, url))) == 0
    whole = 0
    if how == "lines":
        assert in_child(lambda: counted(directory)) == 0
        whole = int((directory / "lines").read_text())
    killed = 0
    for moment in range(moments):
        if how == "lines":
            at = 1 + moment * whole // moments
            status = in_child(lambda: change_until_line(directory, at))  # noqa: B023  ends before the next
        else:
            after = random.Random(moment).uniform(0, 0.08)  # noqa: S311  a moment, no secret
            status = in_child(lambda: change_until_time(directory, after))  # noqa: B023  the same
        killed += status == -signal.SIGKILL
        assert status in {0, -signal.SIGKILL}, f"moment {moment}: status {status}"
        assert in_child(lambda: asyncio.run(look(directory))) == 0, f"moment {moment}: lost"
    sealed = len((directory / "sealed").read_text().splitlines())
    outcome = {"killed": killed, "of": moments, "lines": whole, "sealed": sealed}
    sys.stdout.write(json.dumps(outcome))


def in_child(work: Callable[[], object]) -> int:
    """Its exit code; negative: the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001  nothing may return into the parent's code
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def prepare(directory: Path, url: str) -> None:
    (directory / "database").write_text(url)
    (directory / "sealed").touch()
    await with_keys(directory, lambda d, k: seal_for_new_users(directory, d, k, USERS))


def counted(directory: Path) -> None:
    """How many lines a whole change takes; writes them down."""
    lines = 0

    def count() -> None:
        nonlocal lines
        lines += 1

    trace(count)
    asyncio.run(change(directory))
    (directory / "lines").write_text(str(lines))


def change_until_line(directory: Path, at: int) -> None:
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)

    trace(count)
    asyncio.run(change(directory))


def change_until_time(directory: Path, after: float) -> None:
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))

    async def work() -> None:
        async def several(database: Database, keys: DataKeys) -> None:
            signal.setitimer(signal.ITIMER_REAL, after)
            while True:
                await asyncio.gather(
                    keys.rotate(), seal_for_new_users(directory, database, keys, NEW_USERS)
                )

        await with_keys(directory, several)

    asyncio.run(work())


async def change(directory: Path) -> None:
    async def once(database: Database, keys: DataKeys) -> None:
        await asyncio.gather(
            keys.rotate(), seal_for_new_users(directory, database, keys, NEW_USERS)
        )

    await with_keys(directory, once)


async def look(directory: Path) -> None:
    """Everything that was ever sealed opens, with what is on disk now."""

    async def opened(database: Database, keys: DataKeys) -> None:
        await keys.check()
        for line in (directory / "sealed").read_text().splitlines():
            owner, sealed = line.split()
            assert await keys.open(owner, "c", bytes.fromhex(sealed)) == owner.encode()
        row = await database.first(select(func.count()).select_from(table))
        assert row is not None
        assert row[0] >= USERS

    await with_keys(directory, opened)


async def seal_for_new_users(
    directory: Path, database: Database, keys: DataKeys, count: int
) -> None:
    for _ in range(count):
        owner = f"user_{os.urandom(8).hex()}"
        row = {"id": owner, "name": owner, "tier": "free", "created_at": 0.0}
        await database.write((insert(users), [row]))
        sealed = await keys.seal(owner, "c", owner.encode())
        with (directory / "sealed").open("a") as file:
            file.write(f"{owner} {sealed.hex()}\n")


async def with_keys(
    directory: Path, work: Callable[[Database, DataKeys], Coroutine[Any, Any, None]]
) -> None:
    database = open_database((directory / "database").read_text())
    try:
        provider = await KeyFile.open(directory / "master-keys")
        await work(database, DataKeys(database, SystemClock(), provider))
    finally:
        await database.close()


def trace(line: Callable[[], None]) -> None:
    def local(_frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            line()
        return local

    def enter(frame: FrameType, _event: str, _argument: object) -> Any:
        return local if frame.f_code.co_filename in TRACED else None

    threading.settrace(enter)
    sys.settrace(enter)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
