"""One service for each kind of isolation; every attack is made from inside a real sandbox of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hutch.backends.docker import DockerBackend
from hutch.config import Settings
from hutch.images.build import build
from hutch.walls.models import Report
from hutch.walls.trial import try_walls
from tests.service import Service, User, docker, running_service

ISOLATIONS = ("runc", "gvisor")
TIMEOUT_S = 300  # a test may have to wait for the image, or for the service
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@dataclass
class Hall:
    """A running service under one kind of isolation, and what was found out about its walls."""

    isolation: str
    service: Service
    _report: Report | None = None
    _users: dict[str, User] = field(default_factory=dict)

    def report(self) -> Report:
        """Of ``hutch doctor --deep``, tried once."""
        if self._report is None:
            self._report = asyncio.run(self._try())
        return self._report

    def user(self, name: str) -> User:
        """The same one for each name, with a container."""
        if name not in self._users:
            self._users[name] = self.service.make_user()
            self._users[name].client.get_or_create_container()
        return self._users[name]

    async def _try(self) -> Report:
        backend = DockerBackend(self.service.settings)
        try:
            return await try_walls(self.service.settings, backend, self.service.settings.image)
        finally:
            await backend.close()


@pytest.fixture(scope="session")
def image() -> str:
    """The sandbox image of this very source."""
    docker("version")
    asyncio.run(build(Settings(), say=print))
    return Settings().image


@pytest.fixture(scope="session", params=ISOLATIONS)
def hall(
    image: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Hall]:
    directory = tmp_path_factory.mktemp(request.param)
    settings = {"ISOLATION": request.param, "IMAGE": image, "PREWARM": "codex"}
    with running_service(directory, **settings) as service:
        yield Hall(request.param, service)


@pytest.fixture
def attempt(request: pytest.FixtureRequest) -> Iterator[Attempt]:
    """What the table at the end of the tests says of this test."""
    one = Attempt()
    yield one
    callspec = getattr(request.node, "callspec", None)
    under = callspec.params.get("hall", "-") if callspec else "-"
    tries = one.tries or request.node.name
    told = {"attempt": tries, "under": under, "came": one.came}
    request.node.user_properties.extend(told.items())


@dataclass
class Attempt:
    tries: str = ""
    came: str = ""
