"""The machine itself: what is asked of it, and what a broken one is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.config import Settings
from hutch.errors import HostNotReady
from hutch.host import checks, engine, gvisor, packages, setup
from hutch.host.engine import with_runtime

RUNTIME = {"path": "/usr/bin/runsc", "runtimeArgs": ["--platform=systrap"]}
NAMES = st.text(min_size=1).filter(lambda name: name != "runtimes")


@given(st.dictionaries(NAMES, st.integers() | st.text()), st.dictionaries(NAMES, st.just({})))
def test_registering_keeps_everything_else(
    other: dict[str, object], runtimes: dict[str, object]
) -> None:
    before = {**other, "runtimes": runtimes} if runtimes else other
    after = json.loads(with_runtime(json.dumps(before), "runsc", RUNTIME))
    assert after.pop("runtimes") == {**runtimes, "runsc": RUNTIME}
    assert after == other
    once = with_runtime(json.dumps(before), "runsc", RUNTIME)
    assert with_runtime(once, "runsc", RUNTIME) == once


def test_unregistering_leaves_no_trace() -> None:
    text = with_runtime("", "runsc", RUNTIME)
    assert json.loads(with_runtime(text, "runsc", None)) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"runtimes": []}'])
def test_a_file_that_is_not_ours_to_mend_is_left_alone(text: str) -> None:
    with pytest.raises(HostNotReady):
        with_runtime(text, "runsc", RUNTIME)


@pytest.mark.parametrize(
    ("said", "date"),
    [
        ("runsc version release-20240729.0\nspec: 1.1.0-rc.1\n", 20240729),
        ("runsc version 0.0~20221219.0\n", 20221219),
        ("runsc version VERSION_MISSING", 0),
    ],
)
def test_release_dates(said: str, date: int) -> None:
    assert gvisor.release_date(said) == date


async def test_without_root_nothing_is_changed_and_the_commands_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packages, "is_root", lambda: False)
    with pytest.raises(HostNotReady) as raised:
        await packages.install(["mmdebstrap"], lambda _text: None)
    assert "sudo apt-get install" not in raised.value.message
    assert "apt-get install --yes mmdebstrap" in raised.value.hint
    nowhere = Settings(data_dir=tmp_path, docker_host=f"unix://{tmp_path}/none.sock")
    with pytest.raises(HostNotReady) as raised:
        await setup.set_up(nowhere, lambda _text: None)
    assert "make up" in raised.value.hint


async def test_this_machine_is_ready(tmp_path: Path) -> None:
    """After `make test` has set it up, a doctor finds nothing that is needed missing."""
    settings = Settings(data_dir=tmp_path, port=28484, offline_model_port=28486)
    findings = {finding.name: finding for finding in await checks.check(settings)}
    try:
        missing = [f for f in findings.values() if f.needed and not f.ok]
        assert missing == []
        assert findings["gvisor"].ok, findings["gvisor"]
    finally:
        await _remove_network(settings)


async def test_an_engine_that_is_not_there_is_said_with_what_to_do(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, docker_host=f"unix://{tmp_path}/none.sock")
    [found] = [f for f in await checks.check(settings) if f.name == "docker"]
    assert not found.ok
    assert found.remedy


async def test_a_runtime_that_cannot_start_containers_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered, but it does not work; under a name of its own, so that no one else meets it."""
    settings = Settings(data_dir=tmp_path)
    monkeypatch.setattr(gvisor, "RUNTIME", "runsc-broken")
    assert "no runtime" in await gvisor.works(settings)
    broken: dict[str, object] = {"path": shutil.which("false"), "runtimeArgs": []}
    await engine.register(settings, "runsc-broken", broken)
    try:
        assert await gvisor.works(settings) != ""
    finally:
        await engine.register(settings, "runsc-broken", None)
    assert "runsc-broken" not in engine.DAEMON_JSON.read_text()


async def _remove_network(settings: Settings) -> None:
    from hutch.backends.open import open_backend  # noqa: PLC0415  only for this clean-up

    backend = open_backend(settings)
    await backend.cleanup()
    await backend.close()
