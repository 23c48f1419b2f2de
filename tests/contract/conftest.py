"""One of each backend, with a sandbox program that does what ``HUTCH_TEST_COMMAND`` says."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from hutch.backends.base import Backend, Resources, SandboxSpec
from hutch.backends.docker import DockerBackend
from hutch.backends.fake import FakeBackend
from hutch.backends.process import ProcessBackend
from hutch.config import Settings
from hutch.engine_door.server import Server
from hutch.ids import new_id

# The door is the same under gVisor, which only takes longer to start.
KINDS = ("fake", "process", "docker-runc", "docker-gvisor", "docker-door")
# Anything with a shell and python3; the sandbox image is one.
BASE_IMAGE = os.environ.get("HUTCH_TEST_BASE_IMAGE") or Settings().image
IMAGE = f"hutch-test-backend:{hashlib.sha256(BASE_IMAGE.encode()).hexdigest()[:8]}"
PROGRAM = ("/bin/sh", "-c", 'eval "$HUTCH_TEST_COMMAND"')


class MakeSpec(Protocol):
    def __call__(self, command: str = ..., **resources: float) -> SandboxSpec: ...


@dataclass(frozen=True, slots=True)
class Bench:
    kind: str
    settings: Settings
    backend: Backend

    @property
    def real(self) -> bool:
        return self.kind != "fake"

    def again(self) -> Backend:
        """A second one on the same machine, as after a restart of the orchestrator."""
        return open_kind(self.kind, self.settings)

    def spec(self, command: str = "exec sleep 600", **resources: float) -> SandboxSpec:
        return SandboxSpec(
            instance=self.settings.instance if self.real else "fake0000",
            sandbox_id=new_id("sbx"),
            incarnation=new_id("inc"),
            image=IMAGE,
            env={"HUTCH_TEST_COMMAND": command},
            resources=Resources(**resources),  # type: ignore[arg-type]  # whole numbers, by name
        )


def docker(*arguments: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        ["docker", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "DOCKER_BUILDKIT": "0"},  # an engine of 20.10 has no buildx beside it
    )
    return done.stdout if done.returncode == 0 else f"ERROR {done.stderr}{done.stdout}"


def open_kind(kind: str, settings: Settings) -> Backend:
    match kind:
        case "fake":
            return FakeBackend()
        case "process":
            return ProcessBackend(settings, program=PROGRAM)
        case _:
            return DockerBackend(settings)


@asynccontextmanager
async def settings_of(kind: str, directory: Path) -> AsyncIterator[Settings]:
    """Settings under which ``open_kind`` works, and the door's process where they name one."""
    with tempfile.TemporaryDirectory() as short:  # a socket's path has at most 107 bytes
        settings = make_settings(kind, directory, door=f"{short}/engine.sock")
        server = Server(settings) if settings.engine_door else None
        if server is not None:
            await server.start()
        try:
            yield settings
        finally:
            if server is not None:
                await server.close()


def make_settings(kind: str, directory: Path, *, door: str = "") -> Settings:
    return Settings(
        engine_door=door if kind == "docker-door" else "",
        data_dir=directory,
        backend="process" if kind == "process" else "docker",
        isolation="gvisor" if kind == "docker-gvisor" else "runc",
        insecure_process_backend=True,
    )


@pytest.fixture(scope="session")
def image() -> str:
    if docker("info", "--format", "{{.ServerVersion}}").startswith("ERROR"):
        pytest.skip("no Docker engine answers here")
    if docker("image", "inspect", BASE_IMAGE).startswith("ERROR"):
        pytest.skip(f"the image {BASE_IMAGE} is not built: `hutch image build`")
    dockerfile = f"FROM {BASE_IMAGE}\nUSER app\nENTRYPOINT {json.dumps(PROGRAM)}\nCMD []\n"
    built = docker("build", "-q", "-t", IMAGE, "-", stdin=dockerfile)
    assert not built.startswith("ERROR"), built
    return IMAGE


async def _bench(
    kind: str, request: pytest.FixtureRequest, directory: Path
) -> AsyncIterator[Bench]:
    if kind.startswith("docker"):
        request.getfixturevalue("image")
        if kind == "docker-gvisor" and "runsc" not in docker("info", "--format", "{{.Runtimes}}"):
            pytest.skip("the engine has no runtime `runsc`: `make up` registers it")
    async with settings_of(kind, directory / uuid.uuid4().hex) as settings:
        backend = open_kind(kind, settings)
        try:
            await backend.prepare()
            yield Bench(kind, settings, backend)
        finally:
            await backend.cleanup()
            await backend.close()


@pytest.fixture(params=KINDS)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """Every kind of backend, one after the other."""
    async for one in _bench(request.param, request, tmp_path):
        yield one


@pytest.fixture(params=[k for k in KINDS if k != "fake"])
async def real(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async for one in _bench(request.param, request, tmp_path):
        yield one


@pytest.fixture(params=["docker-runc", "docker-gvisor"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async for one in _bench(request.param, request, tmp_path):
        yield one
