"""What the machine has left: memory, and how busy its cores are. Read from ``/proc``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Memory:
    total_mb: int
    available_mb: int  # what programs can get without swapping, as the kernel estimates it

    @property
    def used_percent(self) -> float:
        return 100 * (1 - self.available_mb / self.total_mb) if self.total_mb else 0.0


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Since the machine was started, of all cores together, in ticks."""

    busy: int
    total: int

    def percent_since(self, before: CpuTime) -> float:
        total = self.total - before.total
        return 100 * (self.busy - before.busy) / total if total > 0 else 0.0


class Load(Protocol):
    def memory(self) -> Memory | None:
        """None where it cannot be told."""
        ...

    def cpu(self) -> CpuTime | None: ...


class ProcLoad:
    """Each read costs about 30 µs: these files are made when they are read, from memory."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def memory(self) -> Memory | None:
        try:
            lines = (self._proc / "meminfo").read_text().splitlines()
            fields = {line.split(":")[0]: int(line.split()[1]) for line in lines}
            return Memory(fields["MemTotal"] >> 10, fields["MemAvailable"] >> 10)
        except (OSError, ValueError, KeyError, IndexError):  # not Linux
            return None

    def cpu(self) -> CpuTime | None:
        try:
            with (self._proc / "stat").open() as file:
                numbers = [int(field) for field in file.readline().split()[1:9]]
            _user, _nice, _system, idle, iowait = numbers[:5]
        except (OSError, ValueError):
            return None
        return CpuTime(busy=sum(numbers) - idle - iowait, total=sum(numbers))


@dataclass
class FixedLoad:
    """For tests: what they say."""

    now: Memory | None = None
    ticks: CpuTime | None = None

    def memory(self) -> Memory | None:
        return self.now

    def cpu(self) -> CpuTime | None:
        return self.ticks
