"""Telling a gVisor that works from one that does not, on the real engine.

Under names of the tests' own: the machine's `runsc` is in use.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hutch.config import Settings
from hutch.errors import HostNotReady
from hutch.host import engine, gvisor

NAME = "hutch-test-runsc"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes the engine's settings")


@pytest.fixture
async def settings(tmp_path: Path) -> AsyncIterator[Settings]:
    settings = Settings(data_dir=tmp_path)
    yield settings
    if NAME in await engine.runtimes(settings):
        await engine.register(settings, NAME, None)


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("runsc version 0.0~20240729.0\nspec: 1.0.2-dev\n", 20240729),
        ("runsc version release-20250512.0\nspec: 1.1.0-rc.1\n", 20250512),
        ("runsc version VERSION_MISSING\n", None),
        ("", None),
    ],
)
def test_release_date(text: str, date: int | None) -> None:
    assert gvisor.release_date(text) == date


async def test_the_machines_own_works(settings: Settings) -> None:
    assert await gvisor.works(settings) == ""
    finding = await gvisor.check(settings, has_image=True)
    assert finding.ok
    assert "runs the image" in finding.detail


async def test_a_runtime_that_nobody_registered(settings: Settings) -> None:
    assert "no runtime" in await gvisor.works(settings, NAME)


@needs_root
async def test_a_broken_registration_is_told_and_mended(settings: Settings) -> None:
    path = shutil.which("runsc")
    assert path
    before = json.loads(engine.DAEMON_JSON.read_text())
    broken = {"path": path, "runtimeArgs": ["--platform=nonsense"]}
    await engine.register(settings, NAME, broken)
    assert await gvisor.works(settings, NAME)
    assert await gvisor.register(settings, NAME, path) == ""
    mended = (await engine.runtimes(settings))[NAME]
    assert tuple(mended["runtimeArgs"]) in gvisor.WAYS
    await engine.register(settings, NAME, None)
    assert json.loads(engine.DAEMON_JSON.read_text()) == before
    assert _probes() == ""


@needs_root
async def test_a_container_outside_gvisor_does_not_pass_for_one_inside(settings: Settings) -> None:
    path = shutil.which("runc", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    await engine.register(settings, NAME, {"path": path})
    assert await gvisor.works(settings, NAME) == "the container is not inside gVisor"


@needs_root
async def test_settings_that_the_engine_does_not_take_are_put_back(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "docker" / "daemon.json"  # the engine does not read this one
    elsewhere.parent.mkdir()
    elsewhere.write_text('{"debug": true}')
    elsewhere.chmod(0o600)
    monkeypatch.setattr(engine, "DAEMON_JSON", elsewhere)
    monkeypatch.setattr(engine, "_RELOAD_S", 1.0)
    with pytest.raises(HostNotReady, match="did not read"):
        await engine.register(settings, NAME, {"path": "/usr/bin/runsc"})
    assert elsewhere.read_text() == '{"debug": true}'
    assert elsewhere.stat().st_mode & 0o777 == 0o600


def _probes() -> str:
    argv = ["docker", "ps", "--all", "--quiet", "--filter", "label=hutch.probe"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
