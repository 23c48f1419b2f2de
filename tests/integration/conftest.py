"""One service for all tests of a kind of isolation; a user of each module's own.

Nothing skips: what these tests need is what the product needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from hutch.config import Settings
from hutch.images.build import build
from tests.service import Service, User, docker, running_service

# A test may have to wait for the image or for the service; what it waits for by itself has limits
# of its own, far below.
TIMEOUT_S = 300
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def image() -> str:
    """The sandbox image of this very source, so that no test runs against an older runtime."""
    docker("version")
    asyncio.run(build(Settings(), say=print))
    return Settings().image


@pytest.fixture(scope="session")
def service(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("gvisor")
    with running_service(directory, ISOLATION="gvisor", IMAGE=image) as running:
        yield running


@pytest.fixture(scope="module")
def user(service: Service) -> User:
    """Shared by the tests of a module, since a container takes seconds to start."""
    return service.make_user()
