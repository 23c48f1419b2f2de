"""Pushing the memory of a frozen container out, on made-up cgroups of both versions. On a real one
it takes swap, which a machine that runs tests may not have: `python -m bench.rest` measures it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hutch.backends import reclaim as subject

MIB = 1 << 20


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(subject, "_has_swap", lambda: True)
    monkeypatch.setattr(subject, "_group", lambda _pid: tmp_path)
    return tmp_path


def make(group: Path, **files: str) -> None:
    for name, content in files.items():
        (group / name.replace("__", ".")).write_text(content)


def test_version_1(group: Path) -> None:
    make(
        group,
        memory__usage_in_bytes=str(300 * MIB),
        memory__limit_in_bytes=str(1024 * MIB),
        memory__swappiness="60",
        memory__memsw__limit_in_bytes=str(1024 * MIB),
        memory__force_empty="",
    )
    assert subject.reclaim(1) == 0  # made-up memory stays where it is
    assert (group / "memory.swappiness").read_text() == "100"
    assert (group / "memory.memsw.limit_in_bytes").read_text() == str(2048 * MIB)
    assert (group / "memory.force_empty").read_text() == "0"


def test_version_2(group: Path) -> None:
    current, limit = str(300 * MIB), str(1024 * MIB)
    make(group, memory__current=current, memory__max=limit, memory__reclaim="")
    (group / "memory.swap.max").write_text("0")
    assert subject.reclaim(1) == 0
    assert (group / "memory.swap.max").read_text() == limit
    assert (group / "memory.reclaim").read_text() == f"{current} swappiness=100"


def test_nothing_without_swap_or_cgroup(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert subject.reclaim(1) == 0  # no such files
    make(group, memory__current="1", memory__max="1", memory__reclaim="")
    monkeypatch.setattr(subject, "_has_swap", lambda: False)
    assert subject.reclaim(1) == 0
    assert (group / "memory.reclaim").read_text() == ""


def test_finds_the_group_of_a_process() -> None:
    group = subject._group(os.getpid())
    assert group is not None
    assert group.is_dir()
