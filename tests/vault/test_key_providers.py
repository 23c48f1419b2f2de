"""What every key provider promises: the file, the environment, and a KMS."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path

import pytest

from hutch.errors import DoesNotOpen, HostNotReady, KeyUnavailable
from hutch.vault.key_environment import EnvironmentKeys
from hutch.vault.key_file import KeyFile
from hutch.vault.keys import KeyProvider, MasterKey, Wrapped
from tests.vault.kms import FakeKms

KEY = bytes(range(32))


def encoded() -> str:
    return base64.b64encode(os.urandom(32)).decode()


@pytest.fixture(params=["file", "environment", "kms"])
async def provider(request: pytest.FixtureRequest, tmp_path: Path) -> KeyProvider:
    match request.param:
        case "file":
            return await KeyFile.open(tmp_path / "master-keys")
        case "environment":
            return EnvironmentKeys(encoded(), encoded())
        case _:
            return FakeKms()


async def test_what_it_wrapped_it_unwraps(provider: KeyProvider) -> None:
    wrapped = await provider.wrap(KEY, b"context")
    assert wrapped.key_id == await provider.active()
    assert len(wrapped.key_id) <= 32  # the column
    assert KEY not in wrapped.data
    assert await provider.unwrap(wrapped, b"context") == KEY
    again = await provider.wrap(KEY, b"context")
    assert again.data != wrapped.data


async def test_another_context_does_not_open(provider: KeyProvider) -> None:
    wrapped = await provider.wrap(KEY, b"context")
    for other in (b"", b"Context", b"context\0"):
        with pytest.raises(DoesNotOpen):
            await provider.unwrap(wrapped, other)


async def test_a_changed_byte_does_not_open(provider: KeyProvider) -> None:
    wrapped = await provider.wrap(KEY, b"context")
    for at in range(len(wrapped.data)):
        data = bytearray(wrapped.data)
        data[at] ^= 1
        with pytest.raises(DoesNotOpen):
            await provider.unwrap(Wrapped(wrapped.key_id, bytes(data)), b"context")
    for short in (b"", wrapped.data[:5], wrapped.data[:-1]):
        with pytest.raises(DoesNotOpen):
            await provider.unwrap(Wrapped(wrapped.key_id, short), b"context")


async def test_an_unknown_master_key_is_named(provider: KeyProvider) -> None:
    wrapped = await provider.wrap(KEY, b"context")
    with pytest.raises(KeyUnavailable, match="mk-not-there"):
        await provider.unwrap(Wrapped("mk-not-there", wrapped.data), b"context")


async def test_earlier_wraps_open_after_a_change(provider: KeyProvider) -> None:
    before = await provider.wrap(KEY, b"context")
    active = await provider.rotate()
    assert active == await provider.active()
    assert (await provider.wrap(KEY, b"context")).key_id == active
    await provider.forget(needed=frozenset({before.key_id}))
    assert await provider.unwrap(before, b"context") == KEY


async def test_forgetting_never_takes_the_active_key(provider: KeyProvider) -> None:
    before = await provider.wrap(KEY, b"context")
    await provider.rotate()
    wrapped = await provider.wrap(KEY, b"context")
    gone = await provider.forget(needed=frozenset())
    assert wrapped.key_id not in gone
    assert await provider.unwrap(wrapped, b"context") == KEY
    if before.key_id in gone:
        with pytest.raises(KeyUnavailable):
            await provider.unwrap(before, b"context")


async def test_many_at_once(provider: KeyProvider) -> None:
    async def one(number: int) -> None:
        wrapped = await provider.wrap(KEY, str(number).encode())
        if number % 5 == 0:
            await provider.rotate()
        assert await provider.unwrap(wrapped, str(number).encode()) == KEY

    await asyncio.gather(*(one(number) for number in range(20)))


async def test_no_key_prints(provider: KeyProvider, tmp_path: Path) -> None:
    key = MasterKey.generate()
    assert key.text() not in f"{key!r} {key!s} {[key]!r}"
    del provider, tmp_path


def test_a_text_in_the_environment_that_is_no_key() -> None:
    for wrong in ("short", "not base64!", base64.b64encode(b"x" * 31).decode()):
        with pytest.raises(HostNotReady, match="HUTCH_MASTER_KEY ") as raised:
            EnvironmentKeys(wrong)
        assert wrong not in raised.value.message + raised.value.hint
        with pytest.raises(HostNotReady, match="HUTCH_MASTER_KEY_PREVIOUS"):
            EnvironmentKeys(encoded(), wrong)


async def test_a_key_moves_from_the_file_into_the_environment_and_back(tmp_path: Path) -> None:
    path = tmp_path / "master-keys"
    file = await KeyFile.open(path)
    wrapped = await file.wrap(KEY, b"context")
    line = next(line for line in path.read_text().splitlines() if line.startswith("mk-"))
    moved = EnvironmentKeys(encoded(), line.split()[1])
    assert await moved.unwrap(wrapped, b"context") == KEY
