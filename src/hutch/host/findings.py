from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One look at the machine. ``remedy`` holds what to type; empty when all is well."""

    name: str
    ok: bool
    detail: str
    needed: bool = True  # False: Hutch works without it, less well
    remedy: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()  # of Debian and Ubuntu, that bring it


def to_type(findings: Iterable[Finding]) -> str:
    """What to type for all of them, one command a line; each once."""
    lines = dict.fromkeys(line for finding in findings for line in finding.remedy)
    return "\n".join(f"  {line}" for line in lines)
