"""The chain of the audit log: each line is sealed together with the seal before it.

A seal is an HMAC with a key that is not in the database, so whoever has the database alone can
remove, change or reorder lines, and cannot make seals that fit. What a chain cannot show by itself,
that its end is missing, its head shows, kept elsewhere. Pure.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

BEGINNING: Final = bytes(32)  # stands before the first seal
BROKEN: Final = "audit.broken"  # the action of a line that a start wrote which found a break


@dataclass(frozen=True, slots=True)
class Link:
    seq: int  # from 1, without a gap
    line: str  # JSON, sealed as it stands
    seal: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The last link, or the beginning."""

    count: int = 0
    seal: bytes = BEGINNING


@dataclass(frozen=True, slots=True)
class Fault:
    seq: int
    what: str


def chain_key(secret: bytes) -> bytes:
    return hmac.digest(secret, b"hutch audit chain v1", "sha256")


def sealed(key: bytes, before: Head, line: str) -> Link:
    seq = before.count + 1
    return Link(seq, line, _seal(key, before.seal, seq, line))


class Verifier:
    """Give it every link in order, then ask for the end."""

    def __init__(self, key: bytes, before: Head = Head()) -> None:
        """``before``: what is taken as given."""
        self._key = key
        self._from = before.count
        self.head = before

    def take(self, link: Link) -> Iterator[Fault]:
        if link.seq != self.head.count + 1:
            yield Fault(link.seq, f"lines {self.head.count + 1} to {link.seq - 1} are missing")
        elif not hmac.compare_digest(
            _seal(self._key, self.head.seal, link.seq, link.line), link.seal
        ):
            yield Fault(link.seq, "this line, or the seal of the one before, was changed")
        else:
            told = _told(link.line)
            if told.get("action") == BROKEN:
                yield Fault(link.seq, f"a start found the log cut short: {told.get('target')}")
        self.head = Head(link.seq, link.seal)

    def meets(self, known: Head, seal_there: bytes | None) -> Iterator[Fault]:
        """After the last link. ``known``: a head that there once was; ``seal_there``: what the link
        of that number has for a seal, None if there is none.
        """
        if known.count <= self._from:
            return
        if seal_there is None:
            yield Fault(
                known.count,
                f"the log ends with line {self.head.count}, and had {known.count}",
            )
        elif not hmac.compare_digest(known.seal, seal_there):
            yield Fault(known.count, "this is not the line that was here")


def _seal(key: bytes, before: bytes, seq: int, line: str) -> bytes:
    return hmac.digest(key, before + seq.to_bytes(8, "big") + line.encode(), "sha256")


def _told(line: str) -> dict[str, object]:
    value = json.loads(line)  # it was sealed by us
    return value if isinstance(value, dict) else {}
