"""What a run changed, by two looks at the workspace."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hutch_runtime import changes
from hutch_runtime.changes import look, told
from hutch_runtime.home import Home


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "workspace/sub").mkdir(parents=True)
    return tmp_path / "workspace"


def by_path(fields: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    return {one["path"]: (one["change"], one["in_diff"]) for one in fields["files"]}


def test_added_modified_and_deleted(root: Path) -> None:
    home = Home(root)
    (root / "kept").write_text("same\n")
    (root / "touched").write_text("same\n")
    (root / "sub/old").write_text("one\ntwo\nthree\n")
    (root / "gone").write_text("bye\n")
    (root / "picture").write_bytes(b"\x00\x01")
    (root / "large").write_text("x" * 70_000)
    (root / "link").symlink_to("kept")
    (root / ".git").mkdir()
    before = look(home)
    (root / "touched").write_text("same\n")
    os.utime(root / "touched", (1, 1))
    (root / "sub/old").write_text("one\nTWO\nthree\n")
    (root / "gone").unlink()
    (root / "picture").write_bytes(b"\x00\x02")
    (root / "large").write_text("y" * 70_000)
    (root / "link").unlink()
    (root / "link").symlink_to("/etc/passwd")
    (root / "sub/new\nname").write_text("hello\n")
    (root / ".git/HEAD").write_text("ref")
    (root / "cut.hutch").write_text("")
    fields = told(before, look(home, before))
    assert by_path(fields) == {
        "cut.hutch": ("added", True),
        "gone": ("deleted", True),
        "large": ("modified", False),
        "link": ("modified", True),
        "picture": ("modified", False),
        "sub/new\nname": ("added", True),
        "sub/old": ("modified", True),
    }
    assert fields["complete"] is True
    assert "-two\n+TWO\n" in fields["diff"]
    assert "--- a/gone\n+++ /dev/null\n" in fields["diff"]
    assert "+/etc/passwd\n" in fields["diff"]
    assert "root:" not in fields["diff"]  # a link is not followed
    assert "+++ b/sub/new?name\n" in fields["diff"]


def test_nothing_changed(root: Path) -> None:
    (root / "f").write_text("x")
    before = look(Home(root))
    assert told(before, look(Home(root), before)) == {"files": [], "diff": "", "complete": True}


def test_limits_are_told_and_nothing_is_made_up(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(20):
        (root / f"{at}").write_text("x")
    monkeypatch.setattr(changes, "FILES_MAX", 10)
    before = look(Home(root))
    assert not before.whole
    monkeypatch.setattr(changes, "FILES_MAX", 1000)
    assert told(before, look(Home(root), before)) == {"files": [], "diff": "", "complete": False}
    before = look(Home(root))
    monkeypatch.setattr(changes, "CHANGED_FILES_MAX", 5)
    monkeypatch.setattr(changes, "CHANGES_DIFF_MAX_BYTES", 100)
    for at in range(20):
        (root / f"{at}").write_text("yy")
    fields = told(before, look(Home(root), before))
    assert (len(fields["files"]), fields["complete"]) == (5, False)
    assert len(fields["diff"]) <= 100
    assert [one["in_diff"] for one in fields["files"]].count(False) >= 3
    monkeypatch.setattr(changes, "KEPT_ALL_MAX_BYTES", 0)
    (root / "0").write_text("zz")
    assert by_path(told(before, look(Home(root), before)))["0"] == ("modified", False)


def test_a_hostile_workspace(root: Path) -> None:
    deep = root
    for _ in range(80):
        deep /= "d"
    deep.mkdir(parents=True)
    os.mkfifo(root / "pipe")
    (root / "out").symlink_to("/")
    (root / os.fsdecode(b"bad\xff")).write_text("x")
    (root / "closed").mkdir(mode=0)
    found = look(Home(root))
    assert not found.whole
    assert set(found.files) == {"out", os.fsdecode(b"bad\xff")}
    fields = told(changes.Look(), found)
    assert [one["path"] for one in fields["files"]] == ["bad\ufffd", "out"]
