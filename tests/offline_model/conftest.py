from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.offline_model.server import running_offline_model


@pytest.fixture(scope="session")
def offline_model_process() -> Iterator[str]:
    with running_offline_model() as base_url:
        yield base_url


@pytest.fixture
def http(offline_model_process: str) -> Iterator[httpx2.Client]:
    """A client of a server that remembers nothing of the test before."""
    with httpx2.Client(base_url=offline_model_process, timeout=20, trust_env=False) as client:
        client.delete("/_control/requests")
        client.delete("/_control/behaviour")
        yield client
