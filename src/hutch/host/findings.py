from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One look at the machine. ``remedy`` holds what to type; empty when all is well."""

    name: str
    ok: bool
    detail: str
    needed: bool = True  # False: Hutch works without it, less well
    remedy: tuple[str, ...] = ()
