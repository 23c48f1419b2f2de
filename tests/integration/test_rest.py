"""Sandboxes at rest, with the real engine and CLIs: frozen, put away, and woken."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hutch.client import ClientError
from hutch_runtime.protocol import PROVIDERS
from tests.service import Service, User, running_service

_WITHIN_S = 60
# What an archive has to carry: links of both kinds, empty directories, odd modes and names, holes.
MAKE = r"""
import json, os, pathlib, sys
here = pathlib.Path("/workspace")
(here / "deep" / "er").mkdir(parents=True)
(here / "deep" / "er" / "odd \n name é").write_text("odd")
(here / "empty").mkdir(mode=0o711)
(here / "script").write_text("#!/bin/sh\n"); (here / "script").chmod(0o751)
os.symlink("deep/er", here / "soft"); os.symlink("/etc/passwd", here / "out")
os.link(here / "script", here / "hard")
with open(here / "hole", "wb") as file:
    file.seek(30 << 20); file.write(b"end")
home = pathlib.Path.home()
(home / ".profile-of-mine").write_text("mine")
print(json.dumps(None))
"""
LOOK = r"""
import json, os, pathlib
here = pathlib.Path("/workspace")
stat = os.stat(here / "script")
print(json.dumps({
    "odd": (here / "deep" / "er" / "odd \n name é").read_text(),
    "empty": oct((here / "empty").stat().st_mode),
    "script": oct(stat.st_mode), "links": stat.st_nlink,
    "same": os.path.samefile(here / "script", here / "hard"),
    "soft": os.readlink(here / "soft"), "out": os.readlink(here / "out"),
    "hole": [(here / "hole").stat().st_size, (here / "hole").stat().st_blocks * 512 < 1 << 20],
    "home": (pathlib.Path.home() / ".profile-of-mine").read_text(),
}))
"""


@pytest.fixture(scope="module")
def service(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Where nobody has to wait long to be put to rest."""
    directory = tmp_path_factory.mktemp("rest")
    with running_service(
        directory, ISOLATION="gvisor", IMAGE=image, FREEZE_AFTER_S="3", HIBERNATE_AFTER_S="0"
    ) as running:
        yield running


@pytest.fixture
def user(service: Service) -> Iterator[User]:
    made = service.make_user()
    yield made
    service.admin.call("DELETE", f"/v1/admin/users/{made.id}")


def becomes(user: User, state: str) -> dict[str, Any]:
    until = time.monotonic() + _WITHIN_S
    while (seen := user.client.container())["observed"] != state:
        assert time.monotonic() < until, seen
        time.sleep(0.1)
    return seen


def test_sessions_go_on_after_both_kinds_of_rest(user: User) -> None:
    first = {p: user.run(p, f"the word of {p} is heron") for p in PROVIDERS}
    sessions = {p: run["session_id"] for p, run in first.items()}
    frozen = becomes(user, "frozen")
    assert frozen["stats"]["memory_bytes"] > 0
    for provider, session in sessions.items():
        second = user.run(provider, "[[recall]]", session_id=session)
        assert f"{provider} is heron" in second["text"], second
    assert user.client.container()["incarnation"] == frozen["incarnation"]

    stored = user.client.call("POST", "/v1/container/hibernate")
    assert stored["observed"] == "hibernated"
    assert stored["snapshot"]["bytes"] > stored["snapshot"]["stored_bytes"] > 0
    with pytest.raises(StopIteration):
        user.container()
    for provider, session in sessions.items():
        third = user.run(provider, "[[recall]]", session_id=session)
        assert f"{provider} is heron" in third["text"], third
        assert third["provider_session"] == first[provider]["provider_session"]
    assert user.client.container()["incarnation"] != frozen["incarnation"]


def test_files_are_as_they_were(user: User) -> None:
    user.client.call("PUT", "/v1/container")
    user.python(MAKE)
    before = user.python(LOOK)
    user.client.call("POST", "/v1/container/hibernate")
    user.client.call("PUT", "/v1/container")
    assert user.python(LOOK) == before
    assert before["hole"][0] == (30 << 20) + 3
    assert before["links"] == 2


def test_more_than_fits_is_refused_when_it_is_written(user: User) -> None:
    said = user.shell("codex", "head -c 70000000 /dev/zero > big; ls big", timeout_s=60)
    assert "No space left on device" in said


def test_a_kill_in_the_middle_of_it_loses_nothing(service: Service, user: User) -> None:
    first = user.run("claude", "the word is ibis")
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(user.client.call, "POST", "/v1/container/hibernate")
        time.sleep(0.15)
        service.restart("api")
        with contextlib.suppress(ClientError):
            asked.result(timeout=60)
    user.client.call("POST", "/v1/container/hibernate")
    with ThreadPoolExecutor() as pool:
        woken = pool.submit(
            user.run,
            "claude",
            "[[recall]]",
            session_id=first["session_id"],
            headers={"idempotency-key": "wake"},
        )
        time.sleep(0.5)
        service.restart("api")
        with contextlib.suppress(ClientError):
            woken.result(timeout=60)
    third = user.run(
        "claude",
        "[[recall]]",
        session_id=first["session_id"],
        headers={"idempotency-key": "wake"},
    )
    assert "ibis" in third["text"], third
