from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.logins.authority import Authority, moved_codex, running_authority
from tests.logins.following import USER, Following, following, key_of, vault_in
from tests.runtime.runtime_process import Runtime, running_runtime

AUTH = ".codex/auth.json"


@pytest.fixture
def authority() -> Iterator[Authority]:
    with running_authority() as running:
        yield running


@dataclass
class World:
    """One user's vault, and containers that come and go."""

    authority: Authority
    directory: Path
    _containers: int = field(default=0)
    _runs: int = field(default=0)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    async def sign_in(self) -> None:
        async with vault_in(self.data) as vault:
            files = {AUTH: json.dumps(self.authority.sign_in()).encode()}
            await vault.put_login(USER, "codex", files, expected_version=None)

    async def stored(self) -> tuple[bytes, str]:
        """The login in the vault, and its state."""
        async with vault_in(self.data) as vault:
            files, _ = await vault.login_files(USER, "codex")
            return files[AUTH], (await vault.info(USER, "codex")).state

    @contextlib.asynccontextmanager
    async def container(self, **env: str) -> AsyncIterator[Runtime]:
        """A new one: nothing of an earlier one's home is in it."""
        self._containers += 1
        directory = self.directory / f"container{self._containers}"
        directory.mkdir()
        async with running_runtime(
            directory,
            self.authority.url,
            prewarm="codex",
            key=key_of(self.data),
            HUTCH_CLI_CODEX=moved_codex(self.authority),
            **env,
        ) as runtime:
            yield runtime

    def following(self, runtime: Runtime) -> contextlib.AbstractAsyncContextManager[Following]:
        return following(self.data, port_of(runtime))

    async def run(self, runtime: Runtime, *, session: str | None = None) -> dict[str, Any]:
        """The last event of a run."""
        self._runs += 1
        events = await runtime.run(
            f"run{self._runs}", f"hello {self._runs}", provider="codex", session=session
        )
        return events[-1]


@pytest.fixture
def world(authority: Authority, tmp_path: Path) -> World:
    (tmp_path / "data").mkdir(mode=0o700)
    return World(authority, tmp_path)


def port_of(runtime: Runtime) -> int:
    port = runtime.http.base_url.port
    assert port is not None
    return port


async def pids(runtime: Runtime) -> list[int]:
    return [agent["pid"] for agent in (await runtime.health())["agents"] if agent["pid"]]


async def until_newest(world: World, *, within_s: float = 5) -> None:
    async with asyncio.timeout(within_s):
        while not world.authority.newest((await world.stored())[0]):
            await asyncio.sleep(0.05)
