"""What `hutch serve` makes of walls: refused behind one that fails, tried once for what it is."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hutch.backends.docker_read import described
from hutch.backends.fake import FakeBackend
from hutch.clock import SystemClock
from hutch.config import Settings
from hutch.control import attacks as task
from hutch.control.attacks import Attacks
from hutch.errors import BackendError, HostNotReady
from hutch.walls import service as walls_service
from hutch.walls.models import Finding, Report
from hutch.walls.record import Outcome, Records
from hutch.walls.service import Walls
from tests.service import HUTCH, docker

HELD = Finding("mount", "mount", "is refused", "held", "EPERM", "")
FAILED = Finding("mount", "mount", "is refused", "failed", "mounted", "do this")


@dataclass
class Trials:
    """Stands for the attacks; ``findings`` of each trial in turn, the last one for ever."""

    findings: list[Finding] = field(default_factory=lambda: [HELD])
    made: int = 0

    async def __call__(self, *_: Any) -> Report:
        finding = self.findings[min(self.made, len(self.findings) - 1)]
        self.made += 1
        return Report("gvisor", (finding,), 1.0)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    one = Trials()
    monkeypatch.setattr(walls_service, "try_walls", one)
    return one


def walls(directory: Path, **settings: Any) -> Walls:
    return Walls(Settings(data_dir=directory, **settings), FakeBackend(), SystemClock())


async def test_what_held_is_not_tried_again_until_something_is_another(
    tmp_path: Path, trials: Trials
) -> None:
    for _ in range(3):  # each a start of its own
        await walls(tmp_path).require("hutch-sandbox:latest")
    assert trials.made == 1
    await walls(tmp_path).require("another")
    await walls(tmp_path, pids=100).require("hutch-sandbox:latest")
    assert trials.made == 3


async def test_an_operators_own_trial_counts(tmp_path: Path, trials: Trials) -> None:
    behind = walls(tmp_path, engine_door="/run/door.sock")
    report = Report("gvisor", (HELD,), 1.0)
    await walls(tmp_path).note(report, "image")  # as `hutch doctor --deep` does
    await behind.require("image")
    assert trials.made == 0


async def test_what_failed_is_tried_at_each_start(tmp_path: Path, trials: Trials) -> None:
    trials.findings = [FAILED, FAILED, HELD]
    for _ in range(2):
        with pytest.raises(HostNotReady, match="mount") as refused:
            await walls(tmp_path).require("image")
        assert "doctor --deep" in refused.value.hint
    await walls(tmp_path).require("image")
    assert trials.made == 3


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}', '{"x": {"tried_at": "soon"}}'])
async def test_a_record_that_cannot_be_read_is_none(
    tmp_path: Path, trials: Trials, content: str
) -> None:
    (tmp_path / "walls.json").write_text(content)
    assert Records(tmp_path).find("x") is None
    await walls(tmp_path).require("image")
    assert trials.made == 1


def test_the_latest_records_are_kept(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for number in range(40):
        records.keep(str(number), Outcome(float(number), 1, ()))
    assert records.find("39") == Outcome(39.0, 1, ())
    assert records.find("0") is None


def test_where_a_wall_has_to_hold() -> None:
    assert not Settings(walls="auto").walls_enforced
    assert Settings(walls="enforce").walls_enforced
    assert Settings(walls="auto", host="0.0.0.0").walls_enforced  # noqa: S104  what is asked
    assert Settings(database_url="postgresql://u:p@h/d").walls_enforced
    assert not Settings(walls="warn", host="0.0.0.0").walls_enforced  # noqa: S104  the same


def test_an_engine_is_told_from_another_and_itself_is_not() -> None:
    info = {
        "ServerVersion": "28.0",
        "KernelVersion": "6.1",
        "SecurityOptions": ["name=seccomp,profile=builtin", "name=apparmor"],
        "Runtimes": {"runc": {"path": "runc"}, "runsc": {"path": "runsc"}},
        "SystemTime": "now",
        "Containers": 5,
    }
    same = {**info, "SystemTime": "later", "Containers": 6}
    same["SecurityOptions"] = list(reversed(info["SecurityOptions"]))  # type: ignore[call-overload]
    assert described(same) == described(info)
    for name in ("ServerVersion", "KernelVersion", "SecurityOptions", "Runtimes"):
        assert described({**info, name: None}) != described(info)


class Time:
    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


async def image() -> str:
    return "image"


async def test_the_task_waits_tries_and_alerts(tmp_path: Path, trials: Trials) -> None:
    clock = Time()
    settings = Settings(data_dir=tmp_path)
    looks = Attacks(Walls(settings, FakeBackend(), clock), clock, image=image)
    trials.findings = [FAILED, HELD]
    assert "waits" in await looks.run()
    assert trials.made == 0
    clock.at += task.FIRST_AFTER_S
    assert await looks.run() == {"attempts": 1, "failed": 1, "alerts": 1}
    (alert,) = looks.alerts()
    assert (alert.what, "mount" in alert.detail) == ("wall_failed", True)
    await looks.run()
    assert trials.made == 1  # it is known; not each minute
    clock.at += task.AGAIN_AFTER_S + 1
    assert await looks.run() == {"attempts": 1, "failed": 0, "alerts": 0}
    assert (trials.made, looks.alerts()) == (2, [])


async def test_walls_that_cannot_be_tried_are_an_alert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> Report:
        raise BackendError("The engine does not answer.")

    monkeypatch.setattr(walls_service, "try_walls", broken)
    clock = Time()
    settings = Settings(data_dir=tmp_path)
    looks = Attacks(Walls(settings, FakeBackend(), clock), clock, image=image)
    clock.at += task.FIRST_AFTER_S
    await looks.run()
    assert "does not answer" in looks.alerts()[0].detail


SET_UID = """FROM {}
USER root
RUN cp /bin/true /usr/local/bin/root-for-all && chmod u+s /usr/local/bin/root-for-all
"""


def test_nothing_is_served_behind_a_wall_that_fails(image: str, tmp_path: Path) -> None:
    """An image that somebody has built with a hole."""
    holed = "hutch-test-holed:latest"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HUTCH_")},
        "HUTCH_DATA_DIR": str(tmp_path),
        "HUTCH_PORT": "0",
        "HUTCH_IMAGE": holed,
        "HUTCH_ISOLATION": "runc",
        "HUTCH_WALLS": "enforce",
        "HUTCH_POOL_SIZE": "0",
    }
    build = ("build", "-q", "-t", holed, "-")
    docker(*build, stdin=SET_UID.format(image))
    began = time.monotonic()
    try:
        done = subprocess.run(
            (HUTCH, "serve"),
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        down = (HUTCH, "down")
        subprocess.run(down, env=environment, capture_output=True, timeout=60, check=True)
        docker("rmi", "-f", holed)
    assert done.returncode == 1, done
    assert "set_uid_programs" in done.stderr
    assert "HUTCH_WALLS=warn" in done.stderr
    assert time.monotonic() - began < 110
