from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select, update

from hutch.app import Hutch
from hutch.errors import NeedsLogin, NotFound
from hutch.store.tables import credentials
from tests.orchestrator.conftest import KEY, World, new_user


async def test_what_is_stored_comes_out_for_the_gateway_alone(hutch: Hutch, user_id: str) -> None:
    revealed = await hutch.vault.reveal(user_id)
    assert {c.provider: c.secret.reveal() for c in revealed if c.secret} == dict.fromkeys(
        ("claude", "codex", "gemini"), KEY
    )
    info = await hutch.vault.info(user_id, "claude")
    assert info.last_four == KEY[-4:]
    assert KEY not in repr((info, revealed))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # its files are ours to read
async def test_no_file_holds_a_key(world: World, hutch: Hutch, user_id: str) -> None:
    del hutch, user_id
    files = [path for path in world.settings.data_dir.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


async def test_a_row_copied_to_another_user_does_not_open(hutch: Hutch, user_id: str) -> None:
    other = await new_user(hutch, "somebody else")
    columns = select(credentials.c.sealed, credentials.c.version).where(
        credentials.c.user_id == user_id, credentials.c.provider == "claude"
    )
    mine = await hutch.database.first(columns)
    assert mine is not None
    await hutch.database.write(
        update(credentials)
        .where(credentials.c.user_id == other, credentials.c.provider == "claude")
        .values(sealed=mine.sealed, version=mine.version)
    )
    # The others still do, and the user is told before their next run fails without a reason.
    assert {c.provider for c in await hutch.vault.reveal(other)} == {"codex", "gemini"}
    with pytest.raises(NeedsLogin, match="claude"):
        await hutch.vault.require(other, "claude")
    await hutch.vault.put(other, "claude", "api_key", KEY)
    await hutch.vault.require(other, "claude")


async def test_a_changed_credential_reaches_the_gateway(
    world: World, hutch: Hutch, user_id: str
) -> None:
    sandbox = await hutch.sandboxes.ensure(user_id)
    await hutch.vault.put(user_id, "claude", "api_key", "another-key-entirely")
    await hutch.gateway_sync.user_changed(user_id)
    [placeholder] = [s.env["HUTCH_PLACEHOLDER_KEY"] for s in world.backend.specs]
    entry = world.gateway.table.find("127.0.0.1", [placeholder])
    assert entry is not None
    assert (entry.sandbox_id, entry.user_id) == (sandbox.id, user_id)
    assert entry.routes["claude"].headers[0][1].reveal() == "another-key-entirely"
    await hutch.vault.delete(user_id, "claude")
    await hutch.gateway_sync.user_changed(user_id)
    entry = world.gateway.table.find("127.0.0.1", [placeholder])
    assert entry is not None
    assert set(entry.routes) == {"codex", "gemini"}
    with pytest.raises(NotFound):
        await hutch.vault.delete(user_id, "claude")


def test_the_key_files_are_private(world: World) -> None:
    assert world.settings.secret
    for name in ("secret", "instance"):
        path: Path = world.settings.data_dir / name
        assert path.stat().st_mode & 0o777 == 0o600
