"""What shows a run's events."""

from __future__ import annotations

from typing import Protocol

from hutch.client.events import Event


class Show(Protocol):
    def event(self, event: Event) -> None: ...
    def close(self) -> None: ...
