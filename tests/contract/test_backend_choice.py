"""Which backend and which isolation the settings lead to, and what the operator is told."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from hutch.backends.docker import DockerBackend
from hutch.backends.open import open_backend
from hutch.backends.process import ProcessBackend
from hutch.backends.strays import container_processes, kill_strays
from hutch.config import Settings
from hutch.errors import BackendError, HostNotReady


def test_docker_is_the_default(tmp_path: Path) -> None:
    assert isinstance(open_backend(Settings(data_dir=tmp_path)), DockerBackend)


async def test_the_process_backend_refuses_without_its_flag(tmp_path: Path) -> None:
    with pytest.raises(HostNotReady, match="no isolation") as refused:
        open_backend(Settings(data_dir=tmp_path, backend="process"))
    assert "HUTCH_INSECURE_PROCESS_BACKEND=true" in refused.value.hint
    backend = open_backend(
        Settings(data_dir=tmp_path, backend="process", insecure_process_backend=True)
    )
    assert isinstance(backend, ProcessBackend)
    capabilities = await backend.capabilities()
    assert (capabilities.isolation, capabilities.own_address) == ("none", False)
    assert "isolates NOTHING" in capabilities.warning


@pytest.mark.parametrize(
    ("wanted", "runtimes", "warning"),
    [
        ("auto", ["runc", "runsc"], ""),
        ("gvisor", ["runc", "runsc"], ""),
        ("auto", ["runc"], "`make up`"),
        ("runc", ["runc", "runsc"], "HUTCH_ISOLATION=runc"),
    ],
)
async def test_gvisor_where_the_engine_has_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    runtimes: list[str],
    warning: str,
) -> None:
    backend = with_runtimes(monkeypatch, Settings(data_dir=tmp_path, isolation=wanted), runtimes)
    capabilities = await backend.capabilities()
    await backend.close()
    assert capabilities.isolation == ("runc" if warning else "gvisor")
    assert warning in capabilities.warning
    assert bool(capabilities.warning) is bool(warning)


async def test_gvisor_asked_for_and_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = with_runtimes(monkeypatch, Settings(data_dir=tmp_path, isolation="gvisor"), ["runc"])
    with pytest.raises(BackendError, match="runsc") as refused:
        await backend.capabilities()
    await backend.close()
    assert "make up" in refused.value.hint


def with_runtimes(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, runtimes: list[str]
) -> DockerBackend:
    """Docker as this machine would have it: only the engine's own description is made up."""
    backend = DockerBackend(settings)

    async def info() -> dict[str, object]:
        return {"Runtimes": {name: {} for name in runtimes}}

    monkeypatch.setattr(backend._docker.system, "info", info)
    return backend


@pytest.mark.parametrize("program", ["runsc", "containerd-shim-runc-v2"])
def test_strays_of_a_container_are_killed_and_nobody_elses(tmp_path: Path, program: str) -> None:
    mine, other = "a" * 64, "b" * 64
    copied = tmp_path / program
    shutil.copy("/bin/sh", copied)
    both = [
        subprocess.Popen(  # it waits without a child, which would look like it for a moment
            [str(copied), "-c", "read line", name], stdin=subprocess.PIPE, start_new_session=True
        )
        for name in (mine, other)
    ]
    plain = subprocess.Popen(
        ["/bin/sh", "-c", "read line", mine], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        assert kill_strays("a" * 12) == []
        assert container_processes()[other] == [both[1].pid]
        assert kill_strays(mine) == [both[0].pid]
        assert both[0].wait(5) == -9
        assert both[1].poll() is None
        assert plain.poll() is None
    finally:
        for process in (*both, plain):
            # Not kill(1): procps reads `-9 -1234` as pid -1, which is everybody.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=5)
