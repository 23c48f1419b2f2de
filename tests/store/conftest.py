from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from hutch.store.open import open_database
from hutch.store.postgresql import PostgresDatabase
from tests.postgres import Server, running_server


@pytest.fixture(scope="package")
def own_server() -> Iterator[Server]:
    """One that may be stopped. It keeps what it was told to keep, as one that matters does."""
    with running_server(fsync="on", full_page_writes="on") as server:
        yield server


@pytest.fixture
async def lasting(own_server: Server) -> AsyncIterator[PostgresDatabase]:
    """A database on a server that may be stopped."""
    url = own_server.new_database()
    database = open_database(url)
    assert isinstance(database, PostgresDatabase)
    yield database
    await database.close()
    own_server.drop(url)
