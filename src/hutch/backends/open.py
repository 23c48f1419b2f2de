"""The one place that picks a backend."""

from __future__ import annotations

from hutch.backends.base import Backend
from hutch.backends.docker import DockerBackend
from hutch.backends.process import ProcessBackend
from hutch.config import Settings


def open_backend(settings: Settings) -> Backend:
    """The backend that the settings name. Raises ``HostNotReady``; nothing is contacted yet."""
    if settings.backend == "process":
        return ProcessBackend(settings)
    return DockerBackend(settings)
