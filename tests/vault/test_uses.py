from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from sqlalchemy import event

from hutch.clock import SystemClock
from hutch.store.database import Database
from hutch.vault.service import Vault
from hutch.vault.uses import Uses

ADA = "user_ada"


@contextlib.asynccontextmanager
async def noting(database: Database, *, every_s: float) -> AsyncIterator[tuple[Uses, list[str]]]:
    written: list[str] = []

    def seen(*arguments: object) -> None:
        statement = str(arguments[2])
        if statement.startswith("UPDATE credentials"):
            written.append(statement)

    engine = database.engine
    event.listen(engine, "before_cursor_execute", seen)
    uses = Uses(database, SystemClock(), write_every_s=every_s)
    try:
        yield uses, written
    finally:
        await uses.close()
        event.remove(engine, "before_cursor_execute", seen)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def stored(vault: Vault) -> Vault:
    await vault.put(ADA, "claude", "api_key", "sk-ant-api03-abcdefghijkl")
    return vault


async def test_the_first_use_is_written_at_once(database: Database, stored: Vault) -> None:
    async with noting(database, every_s=60) as (uses, written):
        uses.note(ADA, "claude", "ok")
        assert written == []  # not by the caller

        async def noted() -> bool:
            return (await stored.info(ADA, "claude")).last_result == "ok"

        await until(noted)
        info = await stored.info(ADA, "claude")
        assert info.used_at is not None
        for _ in range(1000):
            uses.note(ADA, "claude", "rate_limited")
        await asyncio.sleep(0.05)
        assert len(written) == 1
    # What had not been written yet is, when the service goes down.
    assert (await stored.info(ADA, "claude")).last_result == "rate_limited"
    assert len(written) == 2


async def test_the_latest_of_each_period_is_written(database: Database, stored: Vault) -> None:
    async with noting(database, every_s=0.2) as (uses, written):
        for result in ("ok", "ok", "rejected"):
            uses.note(ADA, "claude", result)
            await asyncio.sleep(0.05)

        async def noted() -> bool:
            return (await stored.info(ADA, "claude")).last_result == "rejected"

        await until(noted)
        assert len(written) == 2
        # Unused, nobody waits for it any more; and a later use is written at once again.
        await asyncio.sleep(0.3)
        assert uses._writing == {}
        uses.note(ADA, "claude", "ok")
        await until(lambda: _result_is(stored, "ok"))


async def _result_is(vault: Vault, result: str) -> bool:
    return (await vault.info(ADA, "claude")).last_result == result


async def test_a_use_of_what_is_gone_harms_nobody(vault: Vault) -> None:
    vault.note_use("user_nobody", "claude", "ok")
    vault.note_use(ADA, "gemini", "ok")
    await asyncio.sleep(0.05)
    assert await vault.all(ADA) == []


async def test_a_new_credential_has_not_been_used(stored: Vault) -> None:
    await stored.record_check(ADA, "claude", "rejected")
    assert (await stored.info(ADA, "claude")).last_result == "rejected"
    await stored.put(ADA, "claude", "api_key", "sk-ant-api03-mnopqrstuvwx")
    info = await stored.info(ADA, "claude")
    assert (info.used_at, info.last_result) == (None, None)


async def test_a_use_of_the_credential_before_is_not_this_ones(stored: Vault) -> None:
    began = SystemClock().now()
    await asyncio.sleep(0.01)
    await stored.put(ADA, "claude", "api_key", "sk-ant-api03-mnopqrstuvwx")
    stored.note_use(ADA, "claude", "rejected", began_at=began)
    await stored.close()
    assert (await stored.info(ADA, "claude")).last_result is None
    stored.note_use(ADA, "claude", "ok", began_at=SystemClock().now())
    await stored.close()
    assert (await stored.info(ADA, "claude")).last_result == "ok"
