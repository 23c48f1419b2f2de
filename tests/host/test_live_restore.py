"""Containers outlive the engine once set-up has asked for it: on a real engine of its own."""

from __future__ import annotations

import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.own_engine import OwnEngine
from hutch.config import Settings
from hutch.host import engine

SLEEP = "/bin/sleep"
DOCKER0 = Path("/sys/class/net/docker0")


@pytest.fixture
def own() -> Iterator[OwnEngine]:
    # Not in pytest's folder: the path of a socket is at most 108 bytes long.
    with tempfile.TemporaryDirectory(prefix="hutch-") as folder:
        made = OwnEngine(Path(folder), live_restore=False)
        machines = DOCKER0.exists()
        try:
            made.start()
            assert DOCKER0.exists() == machines, "it took the bridge of the machine's engine"
            yield made
        finally:
            made.stop()


def run(own: OwnEngine, *arguments: str) -> str:
    done = own.docker(*arguments)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def import_sleep(own: OwnEngine, folder: Path) -> None:
    """The smallest image that can wait: one program and its libraries."""
    listed = subprocess.run(["ldd", SLEEP], capture_output=True, check=True, text=True).stdout
    with tarfile.open(folder / "sleep.tar", "w", dereference=True) as archive:
        for path in (SLEEP, *re.findall(r"/\S+", listed)):
            archive.add(path)
    run(own, "import", str(folder / "sleep.tar"), "sleep")


async def test_containers_outlive_an_engine_that_is_killed(
    own: OwnEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path / "data", docker_host=own.host)
    monkeypatch.setattr(engine, "DAEMON_JSON", own.settings_file)
    monkeypatch.setattr(engine, "_PID_FILE", own.pid_file)
    import_sleep(own, tmp_path)
    start = ("run", "-d", "--runtime", "runsc", "--network", "none", "sleep", SLEEP, "600")
    container = run(own, *start)
    state = ("inspect", "--format", "{{.State.Status}} {{.State.Pid}}", container)
    before = run(own, *state)
    assert before.startswith("running")

    found = await engine.check_restarts(settings)
    assert not found.ok
    assert "live-restore" in found.remedy[0]
    await engine.keep_containers(settings)
    assert (await engine.check_restarts(settings)).ok
    assert run(own, *state) == before

    own.kill()
    own.start()
    assert run(own, *state) == before
    run(own, "rm", "-f", container)
