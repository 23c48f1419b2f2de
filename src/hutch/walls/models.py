from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# failed: the attack succeeded. unclear: it could not be tried, or ended in a way that proves
# nothing; what nobody knows does not hold.
Verdict = Literal["held", "failed", "unclear"]


@dataclass(frozen=True, slots=True)
class Attack:
    """``program`` is a function of ``hutch.walls.inside``, as ``module.function``."""

    program: str
    tries: str
    must: str
    remedy: str
    refusals: frozenset[str]  # outcomes that prove the wall: names of errno and of signals
    # Under gVisor the kernel that grants it is the sandbox's own, and the host's knows nothing.
    allowed_in_gvisor: bool = False
    control: bool = False  # it has to succeed, or the refusals of others prove nothing

    @property
    def name(self) -> str:
        return self.program.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Said:
    """What a program inside tells of its own attempt: untrusted."""

    outcome: str  # done, a name of errno or of a signal, timeout, or anything
    detail: str


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    tries: str
    must: str
    verdict: Verdict
    detail: str
    remedy: str  # empty when the wall held


@dataclass(frozen=True, slots=True)
class Report:
    isolation: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def holds(self) -> bool:
        return bool(self.findings) and not self.failures

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.verdict != "held"]
