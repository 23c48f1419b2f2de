"""Whatever is changed about a ciphertext, or about what it is said to be, it does not open."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from hutch.clock import SystemClock
from hutch.errors import DoesNotOpen
from hutch.store.database import Database
from hutch.store.open import open_database
from hutch.store.tables import credentials, users
from hutch.vault.data_keys import DataKeys
from hutch.vault.key_file import KeyFile
from hutch.vault.service import Vault
from tests.vault.conftest import USERS

_T = TypeVar("_T")
PROVIDERS = ("claude", "codex", "gemini")
KINDS = ("api_key", "session_token", "login")
what = st.tuples(
    st.sampled_from(USERS),
    st.sampled_from(PROVIDERS),
    st.sampled_from(KINDS),
    st.integers(1, 2**31 - 1),
)
# One database and one event loop for all examples: the function's own fixtures are theirs alike.
property_test = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Sealing:
    """``DataKeys`` without ``await``, for hypothesis."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._database, self._keys = self.run(_prepare(path))

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._loop.run_until_complete(work)

    def seal(self, user: str, provider: str, kind: str, version: int, text: bytes) -> bytes:
        return self.run(self._keys.seal(user, f"credential {provider} {kind} {version}", text))

    def open(self, user: str, provider: str, kind: str, version: int, sealed: bytes) -> bytes:
        return self.run(self._keys.open(user, f"credential {provider} {kind} {version}", sealed))

    def close(self) -> None:
        self.run(self._database.close())
        self.run(self._loop.shutdown_default_executor())
        self._loop.close()


async def _prepare(path: Path) -> tuple[Database, DataKeys]:

    url = f"sqlite:///{path / 'hutch.db'}"
    database = await asyncio.to_thread(open_database, url)
    rows = [{"id": u, "name": u, "tier": "free", "created_at": 0.0} for u in USERS]
    await database.write((insert(users), rows))
    return database, DataKeys(database, SystemClock(), await KeyFile.open(path / "master-keys"))


@pytest.fixture(scope="module")
def sealing(tmp_path_factory: pytest.TempPathFactory) -> Any:
    one = Sealing(tmp_path_factory.mktemp("sealing"))
    yield one
    one.close()


@property_test
@given(what=what, text=st.binary(max_size=2000))
def test_it_opens_as_what_it_is(
    sealing: Sealing, what: tuple[str, str, str, int], text: bytes
) -> None:
    sealed = sealing.seal(*what, text)
    assert sealing.open(*what, sealed) == text
    assert sealing.seal(*what, text) != sealed


@property_test
@given(what=what, text=st.binary(max_size=200), bit=st.integers(0))
def test_no_flipped_bit_opens(
    sealing: Sealing, what: tuple[str, str, str, int], text: bytes, bit: int
) -> None:
    sealed = bytearray(sealing.seal(*what, text))
    bit %= len(sealed) * 8
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DoesNotOpen):
        sealing.open(*what, bytes(sealed))


@property_test
@given(what=what, other=what)
def test_it_opens_as_nothing_else(
    sealing: Sealing, what: tuple[str, str, str, int], other: tuple[str, str, str, int]
) -> None:
    sealed = sealing.seal(*what, b"text")
    # Each part by itself, and all of them: user, provider, kind, version.
    for parts in ({0}, {1}, {2}, {3}, {0, 1, 2, 3}):
        mixed = (
            other[0] if 0 in parts else what[0],
            other[1] if 1 in parts else what[1],
            other[2] if 2 in parts else what[2],
            other[3] if 3 in parts else what[3],
        )
        if mixed != what:
            with pytest.raises(DoesNotOpen):
                sealing.open(*mixed, sealed)


@property_test
@given(what=what, text=st.binary(max_size=50), cut=st.integers(1))
def test_no_part_of_it_opens(
    sealing: Sealing, what: tuple[str, str, str, int], text: bytes, cut: int
) -> None:
    sealed = sealing.seal(*what, text)
    for part in (sealed[: cut % len(sealed)], sealed + b"\0", b"", sealed[1:]):
        with pytest.raises(DoesNotOpen):
            sealing.open(*what, part)


async def test_an_earlier_row_does_not_open_in_a_later_ones_place(
    database: Database, vault: Vault
) -> None:
    await vault.put("user_ada", "claude", "api_key", "sk-ant-api03-the-leaked-one")
    before = await database.first(select(credentials.c.sealed))
    assert before is not None
    await vault.put("user_ada", "claude", "api_key", "sk-ant-api03-the-new-one")
    await database.write(update(credentials).values(sealed=before.sealed))
    assert await vault.reveal("user_ada") == []
    info = await vault.info("user_ada", "claude")
    assert info == replace(info, state="needs_login")
