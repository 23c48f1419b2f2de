"""An agent that the kernel ended for want of memory says so."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from hutch_runtime import process as process_module
from hutch_runtime.identity import Identity
from hutch_runtime.memory import oom_kills
from hutch_runtime.process import Process


def test_what_the_kernel_has_ended_is_read_from_either_version(tmp_path: Path) -> None:
    first, second, none = tmp_path / "events", tmp_path / "control", tmp_path / "none"
    first.write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n")
    second.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    assert oom_kills((none, first)) == 2
    assert oom_kills((none, second)) == 5
    assert oom_kills((none,)) == 0
    first.write_text("oom_kill nonsense\n")
    assert oom_kills((first, second)) == 5


@pytest.mark.parametrize("more", [0, 1])
async def test_a_killed_process_says_whether_memory_was_short(
    more: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = [0]
    monkeypatch.setattr(process_module, "oom_kills", lambda: counted[0])
    reasons: list[str] = []
    ended = asyncio.Event()

    def exited(reason: str) -> None:
        reasons.append(reason)
        ended.set()

    process = await Process.start(
        ("sleep", "60"),
        cwd=tmp_path,
        environment=dict(os.environ),
        identity=Identity(),
        on_line=lambda _: None,
        on_long_line=lambda _: None,
        on_exit=exited,
    )
    counted[0] = more
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.wait_for(ended.wait(), 10)
    assert reasons[0].startswith("killed by SIGKILL")
    assert ("out of memory" in reasons[0]) is bool(more)
