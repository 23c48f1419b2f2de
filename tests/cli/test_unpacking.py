"""Archives that a hostile container made, on the machine of whoever asked for one."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from hutch.cli.unpacking import unpack
from hutch.errors import InvalidRequest


def archive(*members: tuple[str, bytes, Any]) -> io.BytesIO:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, kind, more in members:
            member = tarfile.TarInfo(name)
            member.type, member.mode = kind, 0o4755
            if kind == tarfile.REGTYPE:
                member.size = len(more)
            else:
                member.linkname = more
            tar.addfile(member, io.BytesIO(more) if kind == tarfile.REGTYPE else None)
    made.seek(0)
    return made


FILE, DIR, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def test_what_is_honest_is_unpacked_and_added_to(tmp_path: Path) -> None:
    given = archive(
        ("./d/f", FILE, b"one"), ("./d/l", LINK, "f"), ("./h", HARD, "./d/f"), ("./e", DIR, "")
    )
    target = tmp_path / "new"
    assert unpack(given, target).files == 3
    assert (target / "d/l").read_text() == (target / "h").read_text() == "one"
    assert (target / "d/f").stat().st_mode & 0o7777 == 0o755
    (target / "kept").write_text("mine")
    unpack(archive(("d/f", FILE, b"two"), ("e/g", FILE, b"three")), target)
    assert (target / "d/f").read_text() == "two"
    assert (target / "e/g").read_text() == "three"
    assert (target / "kept").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]


@pytest.mark.parametrize(
    "members",
    [
        [("/etc/x", FILE, b"")],
        [("../x", FILE, b"")],
        [("a/../../x", FILE, b"")],
        [("d", DIR, ""), ("l", LINK, "d"), ("l/x", FILE, b"")],
        [("x", FILE, b""), ("x", FILE, b"")],
        [("x", FILE, b""), ("x/y", FILE, b"")],
    ],
)
def test_what_leads_out_is_refused(tmp_path: Path, members: list[Any]) -> None:
    with pytest.raises(InvalidRequest, match="not unpacked"):
        unpack(archive(("innocent", FILE, b"x"), *members), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_links_that_lead_out_are_left_out(tmp_path: Path) -> None:
    lead_out = [
        ("a", LINK, "/etc/passwd"),
        ("b", LINK, ".."),
        ("d/up", LINK, "../.."),
        ("d/e/top", LINK, "../../d/../.."),
        ("h", HARD, "/etc/passwd"),
        ("p", tarfile.FIFOTYPE, ""),
        ("dev", tarfile.CHRTYPE, ""),
    ]
    done = unpack(archive(*lead_out, ("d/e/fine", LINK, "../..")), tmp_path / "new")
    assert done.left_out == [name for name, _, _ in lead_out]
    assert (tmp_path / "new/d/e/fine").resolve() == tmp_path / "new"


def test_nothing_is_written_through_a_link_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target/d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidRequest, match="no directory"):
        unpack(archive(("d/x", FILE, b"")), tmp_path / "target")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"x" * 600, archive(("f", FILE, bytes(9000))).read()[:3000]]
)
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidRequest):
        unpack(io.BytesIO(content), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
