"""How the orchestrator steers the gateway. One contract suite runs on client and fake."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from hutch.gateway.table import Entry, Table


@dataclass(frozen=True, slots=True)
class GatewayHealth:
    """``boot_id`` changes when the gateway restarts; ``synced`` turns true at the first whole
    table. A new ``boot_id`` or ``synced=False`` means: push the whole table again.
    """

    boot_id: str
    entries: int
    synced: bool


@dataclass(frozen=True, slots=True)
class ExitTraffic:
    """Of one exit since the gateway started: what was sent through it, and how often it failed."""

    requests: int
    failures: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a sandbox was last refused: a code of ``hutch.errors``, words for its user, and when
    (seconds since 1970).
    """

    code: str
    message: str
    at: float


class GatewayControl(Protocol):
    """Every method raises ``hutch.errors.Unavailable`` when the gateway does not answer."""

    async def put_table(self, entries: Iterable[Entry]) -> None:
        """Replace the whole table; what is not in it is refused from now on."""
        ...

    async def put(self, *entries: Entry) -> None:
        """Add or replace these sandboxes' entries; on return the next request sees them."""
        ...

    async def remove(self, sandbox_id: str, incarnation: str) -> None:
        """Forget that incarnation; succeeds when it, or its sandbox, is gone already."""
        ...

    async def health(self) -> GatewayHealth: ...

    async def exits(self) -> Mapping[str, ExitTraffic]:
        """By exit id; those that nothing was sent through are missing."""
        ...

    async def failure(self, sandbox_id: str, incarnation: str, since: float) -> Failure | None:
        """The last time that this incarnation's exit failed it, if not before ``since``."""
        ...

    async def metrics(self) -> str:
        """Counters since the gateway started, in Prometheus' text form."""
        ...

    async def close(self) -> None: ...


class FakeGateway:
    """A gateway in memory, for tests of the orchestrator. ``table`` is there to be looked at,
    ``traffic`` and ``failures`` (by sandbox and incarnation) to be filled.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget everything, as the real one does when it is started again."""
        self.table = Table()
        self._synced = False
        self._boots = getattr(self, "_boots", 0) + 1
        self.traffic: dict[str, ExitTraffic] = {}
        self.failures: dict[tuple[str, str], Failure] = {}

    async def put_table(self, entries: Iterable[Entry]) -> None:
        self.table.replace(entries)
        self._synced = True

    async def put(self, *entries: Entry) -> None:
        for entry in entries:
            self.table.put(entry)

    async def remove(self, sandbox_id: str, incarnation: str) -> None:
        self.table.remove(sandbox_id, incarnation)

    async def health(self) -> GatewayHealth:
        return GatewayHealth(f"fake-{self._boots}", len(self.table), self._synced)

    async def exits(self) -> Mapping[str, ExitTraffic]:
        return dict(self.traffic)

    async def failure(self, sandbox_id: str, incarnation: str, since: float) -> Failure | None:
        failure = self.failures.get((sandbox_id, incarnation))
        return failure if failure is not None and failure.at >= since else None

    async def metrics(self) -> str:
        return f"hutch_gateway_sandboxes {float(len(self.table))}\n"

    async def close(self) -> None:
        pass
