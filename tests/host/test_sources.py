"""Which entry of the machine is copied for the backports, and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from hutch.host import sources

DEB822 = """\
Types: deb deb-src
# a snapshot
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""
COPY = """\
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm-backports
Components: main
"""
ONE_LINE = """\
# deb http://old.example/debian bookworm-backports main
deb http://mirror.example/debian bookworm main contrib # ours
deb http://mirror.example/debian bookworm-updates main
deb http://security.example/debian-security bookworm-security main
"""


def apt(folder: Path, **files: str) -> Path:
    (folder / "sources.list.d").mkdir()
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        place = folder if stem == "sources" and suffix == "list" else folder / "sources.list.d"
        (place / f"{stem}.{suffix}").write_text(text)
    return folder


def test_fields_are_copied_with_another_suite(tmp_path: Path) -> None:
    signed = "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    assert sources.backports(apt(tmp_path, debian_sources=DEB822), "bookworm") == COPY + signed


def test_a_line_becomes_fields(tmp_path: Path) -> None:
    assert sources.backports(apt(tmp_path, sources_list=ONE_LINE), "bookworm") == COPY


def test_a_lines_options_are_kept(tmp_path: Path) -> None:
    options = "[arch=amd64,arm64 signed-by=/k.gpg trusted=yes]"
    text = f"deb {options} https://deb.example/debian/ bookworm main\n"
    made = sources.backports(apt(tmp_path, sources_list=text), "bookworm")
    assert made is not None
    assert made.splitlines()[-3:] == [
        "Architectures: amd64 arm64",
        "Signed-By: /k.gpg",
        "Trusted: yes",
    ]


def test_an_inline_key_is_copied_whole(tmp_path: Path) -> None:
    key = "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n Suites: none\n -----END-----\n"
    text = COPY.replace("bookworm-backports", "bookworm") + key
    assert sources.backports(apt(tmp_path, debian_sources=text), "bookworm") == COPY + key


@pytest.mark.parametrize(
    "stranger",
    [
        "deb https://download.example/linux/debian bookworm stable\n",
        "deb [signed-by=/k] https://node.example/node_20.x bookworm main\n",
        "deb-src http://mirror.example/debian bookworm main\n",
        "deb http://mirror.example/debian-security bookworm-security main\n",
        "# deb http://mirror.example/debian bookworm main\n",
    ],
)
def test_nothing_but_debian_itself_is_copied(tmp_path: Path, stranger: str) -> None:
    folder = apt(tmp_path, a_list=stranger)
    assert sources.backports(folder, "bookworm") is None
    (folder / "sources.list.d" / "debian.sources").write_text(DEB822)
    made = sources.backports(folder, "bookworm")
    assert made is not None
    assert made.startswith(COPY)


@pytest.mark.parametrize(
    "text", ["", "Types: deb\nSuites: trixie\n", DEB822.replace("Types", "Enabled: no\nTypes")]
)
def test_nothing_to_copy(tmp_path: Path, text: str) -> None:
    assert sources.backports(apt(tmp_path, x_sources=text), "bookworm") is None


def test_a_mirror_by_any_name_is_told_by_its_updates(tmp_path: Path) -> None:
    line = "deb http://local.example/x bookworm{} main\n"
    text = line.format("") + line.format("-updates")
    made = sources.backports(apt(tmp_path, sources_list=text), "bookworm")
    assert made is not None
    assert "URIs: http://local.example/x\n" in made


def test_a_suite_counts_only_where_it_is_in_use(tmp_path: Path) -> None:
    off = COPY + "Enabled: no\n"
    folder = apt(tmp_path, sources_list=ONE_LINE, off_sources=off, old_disabled=COPY)
    assert not sources.has_suite(folder, "bookworm-backports")
    (folder / sources.OURS).write_text(COPY)
    assert sources.has_suite(folder, "bookworm-backports")
