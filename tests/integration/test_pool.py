"""The warm pool with real containers and the real CLIs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hutch.backends.base import LABEL_INSTANCE
from hutch_runtime.protocol import PROVIDERS
from tests.service import Service, docker, running_service

WARM_WITHIN_S = 90


@pytest.fixture(scope="module")
def pooled(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("pool")
    with running_service(directory, ISOLATION="gvisor", IMAGE=image, POOL_SIZE="1") as running:
        yield running


def containers(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.admin.call("GET", "/v1/admin/containers")["containers"]
    return found


def engine(service: Service) -> set[str]:
    label = f"label={LABEL_INSTANCE}={service.settings.instance}"
    return set(docker("ps", "-a", "--filter", label, "--format", "{{.Names}}").split())


def incarnations(service: Service) -> set[str]:
    return {name.rsplit("-", 1)[-1] for name in engine(service)}


def wait(until: Callable[[], Any], within_s: float = WARM_WITHIN_S) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := until()):
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.2)
    return found


def warm_one(service: Service, *, other_than: str = "") -> dict[str, Any]:
    def ready() -> Any:
        return [c for c in containers(service) if c["observed"] == "warm" and c["id"] != other_than]

    found: dict[str, Any] = wait(ready)[0]
    return found


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_new_user_runs_in_the_warm_one(pooled: Service, provider: str) -> None:
    warm = warm_one(pooled)
    assert warm["user_id"] is None
    before = engine(pooled)
    user = pooled.make_user()
    events = list(user.client.run(provider, f"hello from a new user of {provider}"))
    assert engine(pooled) == before
    assert events[-1]["stop_reason"] == "end_turn", events[-1]
    assert [e["agent"] for e in events if e["type"] == "run.started"] == ["warm"]
    assert user.client.container()["incarnation"] == warm["incarnation"]
    ended = user.client.call("DELETE", "/v1/container")
    assert ended["id"] == warm["id"]


def test_a_killed_warm_one_is_replaced(pooled: Service) -> None:
    warm = warm_one(pooled)
    [name] = [n for n in engine(pooled) if n.endswith(warm["incarnation"])]
    docker("kill", name)
    warm_one(pooled, other_than=warm["id"])


def test_the_api_dies_in_the_middle_of_claims(pooled: Service) -> None:
    for n in range(4):
        warm_one(pooled)
        user = pooled.make_user()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(user.client.call, "POST", "/v1/runs", json=_asking(n))
            time.sleep(0.004 + 0.006 * n)
            pooled.restart("api")
            asked.exception(timeout=60)  # the connection broke, or it was answered before
        live = containers(pooled)
        owners = [c["user_id"] for c in live if c["user_id"]]
        assert len(owners) == len(set(owners))
        wait(lambda: incarnations(pooled) <= {c["incarnation"] for c in containers(pooled)})
        run = user.run("claude", f"again {n}")
        assert (run["state"], run["error"]) == ("succeeded", None)
        user.client.call("DELETE", "/v1/container")


def _asking(n: int) -> dict[str, str]:
    return {"provider": "claude", "prompt": f"claimed while the API dies, {n}"}
