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
from tests.service import (
    DATABASES,
    Service,
    User,
    chosen_database,
    docker,
    running_service,
)

# A test may have to wait for the image or for the service; what it waits for by itself has limits
# of its own, far below.
TIMEOUT_S = 300
_HERE = Path(__file__).parent
_ON_BOTH = {"tests.integration.test_recovery", "tests.integration.test_turns"}


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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The way of a run is tested on both databases, the rest on one: what is between is the same,
    and these tests take minutes. `make test DATABASE=postgresql` runs all of them on that one.
    """
    own = hasattr(metafunc.module, "service")  # set up in its own way, on the default
    if "service" in metafunc.fixturenames and not own:
        both = not chosen_database() and metafunc.module.__name__ in _ON_BOTH
        kinds = DATABASES if both else (chosen_database() or DATABASES[0],)
        metafunc.parametrize("service", kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def service(
    image: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("gvisor")
    with running_service(
        directory, database=request.param, ISOLATION="gvisor", IMAGE=image
    ) as running:
        yield running


@pytest.fixture(scope="module")
def user(service: Service) -> User:
    """Shared by the tests of a module, since a container takes seconds to start."""
    return service.make_user()
