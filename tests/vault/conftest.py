from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from hutch.clock import SystemClock
from hutch.errors import CredentialNotAllowed
from hutch.store.database import Database
from hutch.store.open import open_database
from hutch.store.tables import users
from hutch.vault.data_keys import DataKeys
from hutch.vault.key_file import KeyFile
from hutch.vault.service import Vault

USERS = ("user_ada", "user_bob", "user_cyd")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = open_database(database_url)
    rows = [{"id": u, "name": u, "tier": "free", "created_at": 0.0} for u in USERS]
    await opened.write((insert(users), rows))
    yield opened
    await opened.close()


@pytest.fixture
async def key_file(tmp_path: Path) -> KeyFile:
    return await KeyFile.open(tmp_path / "master-keys")


@pytest.fixture
def data_keys(database: Database, key_file: KeyFile) -> DataKeys:
    return DataKeys(database, SystemClock(), key_file)


async def nobody_may(_user_id: str) -> None:
    raise CredentialNotAllowed("Not here.")


@pytest.fixture
async def vault(database: Database, data_keys: DataKeys) -> AsyncIterator[Vault]:
    opened = Vault(database, SystemClock(), data_keys, permit_session_token=nobody_may)
    yield opened
    await opened.close()
