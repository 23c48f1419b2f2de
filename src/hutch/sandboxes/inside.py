"""What a sandbox's runtime says of what is inside, checked: the other side is hostile. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from hutch_runtime.protocol import PROVIDERS, Provider

Place: TypeAlias = Literal["workspace", "home", "tmp"]

_AGENTS_MAX: Final = 100
_COUNT_MAX: Final = 2**53


@dataclass(frozen=True, slots=True)
class Disk:
    """One directory that can be written. ``files`` is None where the kernel does not count them."""

    place: Place
    bytes: int
    used_bytes: int
    files: int | None
    used_files: int | None


@dataclass(frozen=True, slots=True)
class Inside:
    agents: tuple[tuple[Provider, str], ...] = ()  # and the state of each
    disk: tuple[Disk, ...] = ()


def inside(health: Mapping[str, Any]) -> Inside:
    """What of it can be believed; the rest is left out."""
    agents, told = health.get("agents"), health.get("disk")
    return Inside(
        tuple(
            (agent["provider"], str(agent.get("state"))[:32])
            for agent in (agents if isinstance(agents, list) else [])[:_AGENTS_MAX]
            if isinstance(agent, dict) and agent.get("provider") in PROVIDERS
        ),
        tuple(
            disk
            for place in get_args(Place)
            if isinstance(told, dict) and (disk := _disk(place, told.get(place)))
        ),
    )


def _disk(place: Place, said: Any) -> Disk | None:
    counts: list[Any] = [
        said.get(name) if isinstance(said, dict) else None
        for name in ("bytes", "used_bytes", "files", "used_files")
    ]
    size, used, files, used_files = counts
    if not all(_is_count(count) for count in counts):
        return None
    return Disk(place, size, used, files or None, used_files if files else None)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _COUNT_MAX
