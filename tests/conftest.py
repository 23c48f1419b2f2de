from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Debian 12's Python 3.11.2 cannot compile it late in a deep stack (python/cpython#106905), which
# is where pytest's plugin of hypothesis would import it first.
import hypothesis  # noqa: F401
import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from hutch.images.fetch import fetch_clis
from hutch.images.inputs import inputs
from tests import attempts
from tests.postgres import Server, running_server

# These share one container engine and wait for it most of the time: one after the other, while
# another process runs the rest.
_ENGINE = frozenset({"chaos", "contract", "host", "images", "integration", "security"})


class _Sharing(LoadScopeScheduling):  # type: ignore[misc]  # what it is is not typed
    """Which tests stay together, where `make test` has several processes: those of the engine, and
    else those of a file.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "engine" if file.split("/")[1] in _ENGINE else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _Sharing(config, log)


def pytest_sessionstart(session: pytest.Session) -> None:
    """The CLIs outside the image, too: an image that is up to date was built without fetching."""
    if os.environ.get("PYTEST_XDIST_WORKER") or session.config.option.collectonly:
        return
    if "HUTCH_TEST_CLI_DIR" not in os.environ:
        asyncio.run(fetch_clis(inputs()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    attempts.show(terminalreporter)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One server for all tests that are about one; each has a database of its own."""
    with running_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of a database with every table, and empty. A test that asks for it runs on both kinds."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'hutch.db'}"
        return
    server: Server = request.getfixturevalue("postgres")
    url = server.new_database()
    yield url
    server.drop(url)
