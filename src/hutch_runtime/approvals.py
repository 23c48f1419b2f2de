"""What a run asks a person before its agent does it: the questions that are open, and their ends.

A question ends once: by the first decision, when its time is over, when the run is ended, or when
the CLI itself gives it up. Whoever decides the same again is told so, and nothing else happens.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from hutch_runtime.bounds import Cutter
from hutch_runtime.protocol import (
    APPROVAL_MAX_BYTES,
    APPROVAL_TIMEOUT_S,
    APPROVALS_MAX,
    APPROVALS_OPEN_MAX,
    KIB,
    Decider,
    Decision,
    ToolKind,
)

# Cut at first where few would notice, then to what says what it is.
_FIELD_BYTES: Final = (32 * KIB, 1 * KIB)


@dataclass(frozen=True, slots=True)
class Question:
    """What the agent wants to do. ``tool_id`` is that of the run's ``tool.started``."""

    tool_id: str
    kind: ToolKind
    name: str
    input: dict[str, Any]
    diff: str | None = None


# cancel: the run is being ended, and the CLI is to stop rather than to try something else.
Verdict: TypeAlias = Literal["allow", "always", "deny", "cancel"]


@dataclass(frozen=True, slots=True)
class Decided:
    decision: Decision
    by: Decider

    @property
    def verdict(self) -> Verdict:
        return "cancel" if self.by == "cancel" else self.decision


class Approvals:
    """Of one run."""

    def __init__(self, append: Callable[..., bool], *, timeout_s: float | None) -> None:
        """``append``: into the run's journal; False when it is full."""
        self._append = append
        self.timeout_s = timeout_s or APPROVAL_TIMEOUT_S
        self._open: dict[str, asyncio.Future[Decided]] = {}
        self._decided: dict[str, Decided] = {}
        self._asked = 0
        self._closed = False

    async def ask(self, question: Question) -> Decided:
        """Wait for a person. What nobody can be asked about is denied at once, and not told of."""
        if self._closed:
            return Decided("deny", "cancel")
        if len(self._open) >= APPROVALS_OPEN_MAX or self._asked >= APPROVALS_MAX:
            return Decided("deny", "agent")
        self._asked += 1
        approval_id = f"apr_{self._asked}"
        told = self._append(
            "approval.requested",
            approval_id=approval_id,
            tool_id=question.tool_id,
            kind=question.kind,
            name=question.name,
            timeout_s=self.timeout_s,
            **_bounded(question),
        )
        if not told:
            return Decided("deny", "agent")
        answer = self._open[approval_id] = asyncio.get_running_loop().create_future()
        decided = Decided("deny", "agent")  # if our task is cancelled: the CLI asks no longer
        try:
            async with asyncio.timeout(self.timeout_s):
                decided = await answer
        except TimeoutError:
            decided = Decided("deny", "timeout")
        finally:
            if self._open.pop(approval_id, None) is not None:
                self._end(approval_id, decided)
        # Not what was found here: a decision may have come in the moment that the time was over.
        return self._decided[approval_id]

    def decide(self, approval_id: str, decision: Decision) -> Decided | None:
        """What was decided, by this or before it; None if nothing like that was asked."""
        if approval_id in self._open:
            self._answer(approval_id, Decided(decision, "user"))
        return self._decided.get(approval_id)

    def close(self) -> None:
        """The run is being ended: nothing is asked any more."""
        self._closed = True
        for approval_id in list(self._open):
            self._answer(approval_id, Decided("deny", "cancel"))

    def _answer(self, approval_id: str, decided: Decided) -> None:
        answer = self._open.pop(approval_id)
        self._end(approval_id, decided)
        if not answer.done():
            answer.set_result(decided)

    def _end(self, approval_id: str, decided: Decided) -> None:
        self._decided[approval_id] = decided
        self._append(
            "approval.decided",
            approval_id=approval_id,
            decision=decided.decision,
            by=decided.by,
        )


def _bounded(question: Question) -> dict[str, Any]:
    """Input and diff, and whether they are whole."""
    fields = {"input": question.input, "diff": question.diff}
    for limit in _FIELD_BYTES:
        cutter = Cutter(limit)
        cut = cutter.fields(fields)
        if len(json.dumps(cut)) <= APPROVAL_MAX_BYTES:
            return {**cut, "truncated": cutter.dropped > 0}
    return {"input": {}, "diff": None, "truncated": True}
