"""Debian's backports: Debian 12's own gVisor is of 2022, its backports have one of 2024.

The mirror is whichever this machine uses already: its own entry is copied with another suite.
Formats: sources.list(5), one line an entry or stanzas of fields (deb822).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

APT: Final = Path("/etc/apt")
OURS: Final = Path("sources.list.d/hutch-backports.sources")
_COMPONENT: Final = "main"
_ONE_LINE: Final = re.compile(
    r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)$"
)
# The others are the same word in both formats: signed-by is Signed-By.
_FIELDS: Final = {"arch": "Architectures", "lang": "Languages", "target": "Targets"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One enabled source of binary packages."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[str, ...]  # every other field, as lines of a stanza

    def stanza(self, suite: str) -> str:
        """This source's packages of another suite."""
        fields = (
            "Types: deb",
            f"URIs: {' '.join(self.uris)}",
            f"Suites: {suite}",
            f"Components: {_COMPONENT}",
            *self.options,
        )
        return "\n".join(fields) + "\n"


def has_suite(apt: Path, suite: str) -> bool:
    return any(suite in entry.suites for entry in entries(apt))


def backports(apt: Path, codename: str) -> str | None:
    """What to write to ``OURS``; None when the machine has no entry of Debian's to copy.

    Others use Debian's code name as a suite too: Debian itself is told by its second suite, with
    the updates, at the same place, or by the last part of its address.
    """
    known = entries(apt)
    updated = {e.uris for e in known if f"{codename}-updates" in e.suites}
    for entry in known:
        address = entry.uris[0].rstrip("/") if entry.uris else ""
        debians = entry.uris in updated or address.endswith("/debian")
        if debians and codename in entry.suites and _COMPONENT in entry.components:
            return entry.stanza(f"{codename}-backports")
    return None


def entries(apt: Path) -> list[Entry]:
    found: list[Entry] = []
    for path in (apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))):
        if path.is_file() and path.suffix in {".list", ".sources"}:
            read = _stanzas if path.suffix == ".sources" else _lines
            found += read(path.read_text(errors="replace"))
    return found


def _stanzas(text: str) -> Iterator[Entry]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n[ \t]*\n", "\n".join(lines)):
        fields = _fields(stanza)

        def words(name: str, fields: dict[str, str] = fields) -> tuple[str, ...]:
            return tuple(fields.get(name, "").partition(":")[2].split())

        if "deb" not in words("types") or words("enabled") in {("no",), ("false",)}:
            continue
        own = {"types", "uris", "suites", "components", "enabled"}
        options = tuple(lines for name, lines in fields.items() if name not in own)
        yield Entry(words("uris"), words("suites"), words("components"), options)


def _fields(stanza: str) -> dict[str, str]:
    """Name in lower case → its lines, with those that go on indented, as in an inline key."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line[:1].isspace() and name:
            fields[name] += f"\n{line}"
        elif ":" in line:
            name = line.partition(":")[0].strip().lower()
            fields[name] = line
    return fields


def _lines(text: str) -> Iterator[Entry]:
    for line in text.splitlines():
        found = _ONE_LINE.match(line.partition("#")[0].strip())
        if not found:
            continue
        options = []
        for option in (found["options"] or "").split():
            name, _, value = option.partition("=")
            field = _FIELDS.get(name, name.title())
            options.append(f"{field}: {value.replace(',', ' ')}")
        yield Entry(
            (found["uri"],), (found["suite"],), tuple(found["components"].split()), tuple(options)
        )
