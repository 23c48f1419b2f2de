"""As in production: door, gateway and API as users of their own, the API without any privilege."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hutch.client import Client
from hutch_runtime.protocol import PROVIDERS
from tests.integration.test_rest import becomes
from tests.service import Identity, Part, Service, User, docker, running_apart

# By number: nobody has to be made for it. The API is in the gateway's group, nobody in the API's.
GATEWAY = Identity(64102, 64102)
API = Identity(64101, 64101, groups=(GATEWAY.gid,))
ENGINE = "/var/run/docker.sock"


@pytest.fixture(scope="module")
def service(image: str) -> Iterator[Service]:
    home = Path(tempfile.mkdtemp(prefix="hutch-apart-"))
    try:
        home.chmod(0o711)
        for name, uid, gid, mode in (
            ("data", API.uid, API.gid, 0o700),
            ("door", 0, API.gid, 0o750),
            ("gateway", GATEWAY.uid, GATEWAY.gid, 0o750),
        ):
            (home / name).mkdir(mode=mode)
            os.chown(home / name, uid, gid)
        settings = {
            "ISOLATION": "gvisor",
            "IMAGE": image,
            "INSTANCE_ID": os.urandom(4).hex(),
            "ENGINE_DOOR": str(home / "door" / "engine.sock"),
            "GATEWAY_CONTROL": str(home / "gateway" / "control.sock"),
            "FREEZE_AFTER_S": "3",
            "HIBERNATE_AFTER_S": "0",
            "WALLS": "enforce",  # so that it starts at all they were tried, through the door
        }
        with running_apart(home / "data", {"gateway": GATEWAY, "api": API}, settings) as running:
            yield running
    finally:
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def user(service: Service) -> User:
    return service.make_user()


def open_socket(identity: Identity, path: str) -> str:
    """What comes of it when that user opens a socket."""
    code = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "try:\n s.connect(sys.argv[1])\n print('opened')\n"
        "except OSError as error:\n print(type(error).__name__)"
    )
    argv = (*identity.argv(), "/usr/bin/python3", "-c", code, path)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


def status(service: Service, part: Part) -> dict[str, str]:
    pid = service._running[part].pid
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_who_they_are(service: Service) -> None:
    both: tuple[tuple[Part, Identity], ...] = (("api", API), ("gateway", GATEWAY))
    for part, identity in both:
        found = status(service, part)
        assert {*found["Uid"].split(), *found["Gid"].split()} == {str(identity.uid)}
        assert int(found["CapEff"], 16) & ~(1 << 2) == 0  # at most to read: see Identity
        assert found["NoNewPrivs"] == "1"


def test_who_may_open_what(service: Service) -> None:
    door, gateway = service.settings.engine_door, service.settings.gateway_control
    assert (open_socket(API, door), open_socket(API, gateway)) == ("opened", "opened")
    assert open_socket(GATEWAY, gateway) == "opened"
    for identity, path in (
        (API, ENGINE),
        (GATEWAY, ENGINE),
        (GATEWAY, door),
        (Identity(64103, 64103), door),
        (Identity(64103, 64103), gateway),
    ):
        assert open_socket(identity, path) == "PermissionError", path


def test_the_walls_were_tried_and_hold(service: Service) -> None:
    assert '"walls.held"' in (service.settings.logs_dir / "api.log").read_text()
    with Client(service.url, "") as client:
        assert client.call("GET", "/readyz")["firewall"] == "ok"
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
    assert f"hutch-{service.settings.instance}" in tables.stdout


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_prompt(user: User, provider: str) -> None:
    run = user.run(provider, "Hello, sandbox.")
    assert run["state"] == "succeeded", run


def test_frozen_put_away_and_back(user: User) -> None:
    run = user.run("claude", "the word is heron")
    before = becomes(user, "frozen")
    again = user.run("claude", "[[recall]]", session_id=run["session_id"])
    assert "heron" in again["text"]
    assert user.client.container()["incarnation"] == before["incarnation"]
    assert user.client.call("POST", "/v1/container/hibernate")["observed"] == "hibernated"
    last = user.run("claude", "[[recall]]", session_id=run["session_id"])
    assert "heron" in last["text"]


def test_the_door_refused_nothing_of_all_that(service: Service) -> None:
    log = service.settings.logs_dir / "door.log"
    assert "door.listening" in log.read_text()
    assert "door.refused" not in log.read_text()


def test_a_door_that_died_is_missed_by_no_prompt(service: Service, user: User) -> None:
    user.run("claude", "Be there.")
    service.kill("door")
    assert user.run("claude", "And now?")["state"] == "succeeded"
    service.open_door()
    table = ("inet", f"hutch-{service.settings.instance}")
    subprocess.run(["nft", "delete", "table", *table], check=True, timeout=10)
    until = time.monotonic() + 40
    while subprocess.run(["nft", "list", "table", *table], capture_output=True).returncode:  # noqa: PLW1510  polled
        assert time.monotonic() < until, "the new door did not put the firewall back"
        time.sleep(0.2)
    becomes(user, "frozen")
    assert user.run("claude", "Awake?")["state"] == "succeeded"


def test_a_container_of_theirs_is_under_gvisor(user: User) -> None:
    said = docker("inspect", user.container(), "--format", "{{json .HostConfig.Runtime}}")
    assert said.strip() == '"runsc"'
