"""What one sandbox may use, by the settings."""

from __future__ import annotations

from hutch.backends.base import Resources
from hutch.config import Settings


def resources_of(settings: Settings) -> Resources:
    return Resources(
        cpu_share=settings.cpu_share,
        cpu_ceiling=settings.cpu_ceiling,
        memory_soft_mb=settings.memory_soft_mb,
        memory_hard_mb=settings.memory_hard_mb,
        pids=settings.pids,
        agent_pids=settings.agent_pids,
        workspace_mb=settings.workspace_mb,
        home_mb=settings.home_mb,
    )
