"""`hutch doctor` on this very machine, and what it says of a poorer one."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hutch.config import Settings
from hutch.errors import HostNotReady
from hutch.host import checks, packages, ports, setup
from hutch.host.findings import Finding

NOBODY = 65534


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_this_machine_is_ready_and_looking_leaves_nothing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", port=port(), offline_model_port=port())
    found = by_name(asyncio.run(checks.check(settings)))
    for name in ("docker", "network", "node", "mmdebstrap", "disk", "image", "gvisor", "firewall"):
        assert found[name].ok, found[name]
        assert found[name].detail
    assert not settings.data_dir.exists()
    argv = ["docker", "network", "ls", "--quiet", "--filter", "name=hutch-probe-"]
    assert subprocess.run(argv, capture_output=True, check=True).stdout == b""


async def test_a_missing_image_is_needed_and_named(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, image="hutch-nowhere:none")
    found = by_name(await checks.check(settings))
    assert not found["image"].ok
    assert found["image"].needed
    assert found["image"].remedy == ("hutch image build",)


async def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, docker_host=f"unix://{tmp_path}/none.sock")
    found = by_name(await checks.check(settings))
    assert not found["docker"].ok
    assert "does not answer" in found["docker"].detail
    assert "image" not in found


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_user_without_rights_is_told_what_to_type_and_nothing_is_changed(tmp_path: Path) -> None:
    """Runs the whole of it as a user who may not use the engine's socket."""
    code = (
        # The thread's module here, since that user may be unable to read this Python.
        "import asyncio, concurrent.futures.thread, os, sys; from hutch.config import Settings;"
        "from hutch.errors import HostNotReady; from hutch.host.setup import set_up;\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        f"settings = Settings(data_dir={str(tmp_path / 'data')!r})\n"
        "try: asyncio.run(set_up(settings, print))\n"
        "except HostNotReady as error: print(error.message, error.hint, sep='\\n')"
    )
    argv = [sys.executable, "-c", code]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=50).stdout
    assert "this user may not use it" in said
    assert "  sudo usermod -aG docker " in said
    assert not (tmp_path / "data").exists()


def test_commands_carry_sudo_for_whom_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "has_apt", lambda: True)
    monkeypatch.setattr(packages, "is_root", lambda: False)
    assert packages.install_command(("a", "b")) == (
        "sudo apt-get update",
        "sudo apt-get install --yes --no-install-recommends a b",
    )
    monkeypatch.setattr(packages, "is_root", lambda: True)
    assert packages.install_command(("a",))[0] == "apt-get update"


def test_what_is_needed_is_raised_with_every_command_and_the_rest_is_said() -> None:
    said: list[str] = []
    findings = [
        Finding("docker", False, "not installed", remedy=("one", "two")),
        Finding("node", False, "no npm", remedy=("one", "three")),
        Finding("gvisor", False, "absent", needed=False, remedy=("four",)),
        Finding("disk", True, "fine", remedy=("five",)),
    ]
    with pytest.raises(HostNotReady) as raised:
        setup.insist(findings, said.append)
    assert raised.value.hint.splitlines()[1:] == ["  one", "  two", "  three"]
    assert said == ["WARNING: gvisor: absent\n  four"]


@pytest.mark.parametrize(
    ("text", "major"), [("v20.20.2\n", 20), ("v8.1.0", 8), ("", 0), ("no version", 0)]
)
def test_major_version(text: str, major: int) -> None:
    assert packages.major(text) == major


def test_a_port_is_free_ours_or_anothers(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, port=port(), offline_model_port=port())
    assert [finding.detail for finding in ports.check(settings)] == ["free", "free"]
    record = tmp_path / "running" / "api.json"
    record.parent.mkdir()
    with socket.create_server(("127.0.0.1", settings.port)):
        taken = ports.check(settings)[0]
        assert not taken.ok
        assert taken.remedy[0].startswith("HUTCH_PORT=")
        record.write_text('{"pid": 1}')  # a record alone proves nothing
        assert not ports.check(settings)[0].ok
        record.write_text(f'{{"pid": {os.getpid()}}}')
        assert ports.check(settings)[0].detail == "held by our api"


@pytest.mark.skipif(not packages.has_apt(), reason="asks the package archives that apt knows")
def test_every_package_that_is_needed_is_to_be_had_here() -> None:
    """One name that a release does not have keeps apt from installing any of them."""
    for name in (*packages.ENGINE, *packages.NODE, *packages.DEBIAN_ROOT):
        argv = ["apt-cache", "policy", name]
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        assert "Candidate: " in said, name
        assert "Candidate: (none)" not in said, name
