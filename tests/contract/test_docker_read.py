"""What the engine says, where it says something odd."""

from __future__ import annotations

import pytest

from hutch.backends import docker_read
from hutch.errors import BackendError


def test_usage_of_a_container_that_ends_meanwhile() -> None:
    with pytest.raises(BackendError):
        docker_read.stats(None)
