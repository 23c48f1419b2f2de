"""Another image on the real engine, with the real CLIs: a good one, a broken one, and back."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from hutch.runs.trial import SAID
from hutch_runtime.protocol import PROVIDERS
from tests.integration.test_pool import containers, wait
from tests.service import Service, User, docker, running_service

WITHIN_S = 120


@pytest.fixture(scope="module")
def repository(image: str) -> Iterator[str]:
    """With ``first``, which is the image under another name."""
    name = f"hutch-roll-{uuid.uuid4().hex[:8]}"
    docker("tag", image, f"{name}:first")
    try:
        yield name
    finally:
        made = docker("images", name, "--format", "{{.Repository}}:{{.Tag}}").split()
        docker("image", "rm", *made)


@pytest.fixture(scope="module")
def rolling(repository: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("images")
    with running_service(
        directory, ISOLATION="gvisor", IMAGE=f"{repository}:first", POOL_SIZE="1"
    ) as running:
        yield running


def derive(repository: str, tag: str, instructions: str = "") -> str:
    """Its id, which no earlier test's image has: one with other names besides is kept."""
    dockerfile = f"FROM {repository}:first\nLABEL trial={repository}-{tag}\n{instructions}\n"
    docker("build", "-q", "-t", f"{repository}:{tag}", "-", stdin=dockerfile)
    return image_id(f"{repository}:{tag}")


def image_id(name: str) -> str:
    return docker("image", "inspect", "--format", "{{.Id}}", name).strip()


def status(service: Service) -> dict[str, Any]:
    return service.admin.call("GET", "/v1/admin/image")


def roll(service: Service, image: str) -> dict[str, Any]:
    """The roll-out when it is over, as fast as it may be."""
    asked = {"image": image, "share": 20, "for_s": 0}
    service.admin.call("POST", "/v1/admin/image/roll", json=asked)
    wait(lambda: status(service)["under_way"] is None, WITHIN_S)
    latest: dict[str, Any] = status(service)["history"][0]
    return latest


def warm_of(service: Service, image: str) -> None:
    """Wait until the one warm container there is was made of that image."""

    def met() -> bool:
        warm = [c for c in containers(service) if c["observed"] == "warm"]
        return len(warm) == 1 and image_of(warm[0]["incarnation"]) == image

    wait(met, WITHIN_S)


def image_of(incarnation: str) -> str:
    [name] = [n for n in docker("ps", "--format", "{{.Names}}").split() if n.endswith(incarnation)]
    return docker("inspect", "--format", "{{.Image}}", name).strip()


def of(user: User) -> str:
    return image_of(user.client.container()["incarnation"])


def test_there_and_back(rolling: Service, repository: str) -> None:
    first = image_id(f"{repository}:first")
    warm_of(rolling, first)
    keeper = rolling.make_user()
    keeper.run("claude", "before")
    good = derive(repository, "good")
    done = roll(rolling, f"{repository}:good")
    assert (done["phase"], done["reason"]) == ("done", "it was well for 0 s")
    assert done["image_id"] == good
    warm_of(rolling, good)
    newcomer = rolling.make_user()
    assert newcomer.run("claude", "after")["state"] == "succeeded"
    assert of(newcomer) == good
    assert keeper.run("claude", "still")["state"] == "succeeded"
    assert of(keeper) == first
    assert len(rolling.model.asked(SAID)) == len(PROVIDERS)  # through the gateway

    rolling.admin.call("POST", "/v1/admin/image/rollback")
    warm_of(rolling, first)
    newcomer.client.call("DELETE", "/v1/container")
    assert newcomer.run("codex", "back")["state"] == "succeeded"
    assert of(newcomer) == first


BROKEN = "USER root\nRUN ln -sf /bin/false /usr/local/bin/codex\nUSER app"


def test_a_broken_cli_changes_nothing(rolling: Service, repository: str) -> None:
    first = image_id(f"{repository}:first")
    warm_of(rolling, first)
    before = {c["id"] for c in containers(rolling)}
    derive(repository, "broken", BROKEN)
    failed = roll(rolling, f"{repository}:broken")
    assert failed["phase"] == "failed"
    assert "codex" in failed["reason"]
    wait(lambda: {c["id"] for c in containers(rolling)} == before, WITHIN_S)
    assert status(rolling)["current"]["id"] == first


def test_what_nothing_uses_is_removed(rolling: Service, repository: str) -> None:
    for n in range(2):
        derive(repository, f"later{n}")
    removed = rolling.admin.call("POST", "/v1/admin/image/prune")["removed"]
    gone = {name for image in removed for name in image["names"]}
    assert gone == {f"{repository}:good", f"{repository}:broken"}
    left = set(docker("images", repository, "--format", "{{.Tag}}").split())
    assert left == {"first", "later0", "later1"}
