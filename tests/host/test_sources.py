"""Backports come from wherever the machine's own packages come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from hutch.host.sources import backports_entry, has_suite

DEB822 = """\
# a comment
Types: deb
URIs: http://mirror.invalid/debian-security
Suites: bookworm-security
Components: main

Types: deb deb-src
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
ONE_LINE = """\
# deb http://mirror.invalid/old bookworm main
deb http://mirror.invalid/debian-security bookworm-security main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.invalid/debian bookworm main contrib
"""


def apt(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


def test_a_deb822_stanza_is_copied_with_its_key(tmp_path: Path) -> None:
    folder = apt(tmp_path, "sources.list.d/debian.sources", DEB822)
    entry = backports_entry(folder, "bookworm")
    assert entry is not None
    path, text = entry
    assert path == tmp_path / "sources.list.d/hutch-backports.sources"
    assert text == (
        "Types: deb deb-src\n"
        "URIs: http://mirror.invalid/debian\n"
        "Suites: bookworm-backports\n"
        "Components: main contrib\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
    path.write_text(text)
    assert has_suite(folder, "bookworm-backports")


def test_a_line_is_copied_with_its_options(tmp_path: Path) -> None:
    folder = apt(tmp_path, "sources.list", ONE_LINE)
    entry = backports_entry(folder, "bookworm")
    assert entry is not None
    assert entry[1] == (
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.invalid/debian"
        " bookworm-backports main contrib\n"
    )
    assert not has_suite(folder, "bookworm-backports")


@pytest.mark.parametrize(
    "text",
    ["", "Types: deb\nSuites: trixie\n", DEB822.replace("Types: deb", "Enabled: no\nTypes: deb")],
)
def test_nothing_to_copy(tmp_path: Path, text: str) -> None:
    assert backports_entry(apt(tmp_path, "sources.list.d/x.sources", text), "bookworm") is None
