"""A run's approvals, as its log tells of them. Pure.

The log is where they are kept: the runtime is what waits, and asks again nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from hutch.runs.models import Approval, LogEntry
from hutch_runtime.protocol import APPROVALS_MAX, APPROVALS_OPEN_MAX, ProtocolError

TYPES: Final = frozenset({"approval.requested", "approval.decided"})


class Ledger:
    def __init__(self, run_id: str, stored: Iterable[LogEntry] = ()) -> None:
        self._run_id = run_id
        self._approvals: dict[str, Approval] = {}
        for entry in stored:
            self.take(entry.type, entry.data, entry.time)

    def take(self, kind: str, data: Mapping[str, Any], time: float) -> None:
        """An event of any type, from a sandbox. Raises ``ProtocolError`` for one that cannot follow
        those before it.
        """
        match kind:
            case "approval.requested":
                self._requested(data, time)
            case "approval.decided":
                self._decided(data, time)
            case _:
                pass

    def get(self, approval_id: str) -> Approval | None:
        return self._approvals.get(approval_id)

    def all(self) -> list[Approval]:
        """In the order in which they were asked."""
        return list(self._approvals.values())

    def _requested(self, data: Mapping[str, Any], time: float) -> None:
        approval_id = data["approval_id"]
        waiting = sum(one.decision is None for one in self._approvals.values())
        if approval_id in self._approvals:
            raise ProtocolError("an approval that was asked for before")
        if waiting >= APPROVALS_OPEN_MAX or len(self._approvals) >= APPROVALS_MAX:
            raise ProtocolError("more approvals than a run may ask for")
        told = {name: data[name] for name in _TOLD}
        self._approvals[approval_id] = Approval(
            id=approval_id,
            run_id=self._run_id,
            requested_at=time,
            expires_at=time + data["timeout_s"],
            **told,
        )

    def _decided(self, data: Mapping[str, Any], time: float) -> None:
        known = self._approvals.get(data["approval_id"])
        if known is None or known.decision is not None:
            raise ProtocolError("a decision on no approval that waits")
        self._approvals[known.id] = replace(
            known, decision=data["decision"], by=data["by"], decided_at=time
        )


_TOLD: Final = ("tool_id", "kind", "name", "input", "diff", "truncated")
