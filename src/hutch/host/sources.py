"""Debian's backports: Debian 12's own gVisor is of 2022, its backports have one of 2024.

The mirror is whichever this machine uses already: its own entry is copied with another suite.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

APT: Final = Path("/etc/apt")
OURS: Final = Path("sources.list.d/hutch-backports.sources")
OURS_ONE_LINE: Final = Path("sources.list.d/hutch-backports.list")


def has_suite(apt: Path, suite: str) -> bool:
    return any(suite in text for _, text in _sources(apt))


def backports_entry(apt: Path, release: str) -> tuple[Path, str] | None:
    """The file to write and its text; None when no entry of ``release`` can be copied."""
    for path, text in _sources(apt):
        entry = (_deb822 if path.suffix == ".sources" else _one_line)(text, release)
        if entry is not None:
            return apt / (OURS if path.suffix == ".sources" else OURS_ONE_LINE), entry
    return None


def _sources(apt: Path) -> list[tuple[Path, str]]:
    paths = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    return [(p, p.read_text()) for p in paths if p.is_file() and p.suffix in {".list", ".sources"}]


def _deb822(text: str, release: str) -> str | None:
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        fields = {
            name.strip().lower(): value.strip()
            for name, colon, value in (line.partition(":") for line in lines)
            if colon
        }
        suites = fields.get("suites", "").split()
        if release not in suites or "deb" not in fields.get("types", "").split():
            continue
        if fields.get("enabled", "yes").lower() in {"no", "false"}:
            continue
        copied = [
            f"Suites: {release}-backports" if line.lower().startswith("suites:") else line
            for line in lines
        ]
        return "\n".join(copied) + "\n"
    return None


def _one_line(text: str, release: str) -> str | None:
    pattern = re.compile(rf"^(deb\s+(?:\[[^\]]*\]\s+)?\S+\s+){re.escape(release)}(\s+.*)$")
    for line in text.splitlines():
        found = pattern.match(line.strip())
        if found:
            return f"{found[1]}{release}-backports{found[2]}\n"
    return None
