"""The one place that picks a backend."""

from __future__ import annotations

from hutch.backends.base import Backend, Resources
from hutch.backends.docker import DockerBackend
from hutch.backends.process import ProcessBackend
from hutch.config import Settings


def resources(settings: Settings) -> Resources:
    """What one sandbox may use."""
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


def open_backend(settings: Settings) -> Backend:
    """The backend that the settings name. Raises ``HostNotReady``; nothing is contacted yet."""
    if settings.backend == "process":
        return ProcessBackend(settings)
    return DockerBackend(settings)
