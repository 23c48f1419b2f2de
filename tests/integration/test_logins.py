"""A login in a gVisor container, through the gateway, while each part is killed in its turn.

The image is the real one, told of a sign-in service of our own, which refresh requests reach as any
other host: through the gateway, as far as the operator allows it.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hutch.client import ApiError
from tests.logins.authority import Authority, running_authority
from tests.service import HUTCH, Service, User, docker, running_service

OUTSIDE = "127.0.0.2"  # not 127.0.0.1, which nobody asks a proxy for
MOMENTS_S = (0.0, 0.02, 0.1, 0.4)


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    with running_authority(host=OUTSIDE) as running:
        yield running


@pytest.fixture(scope="module")
def login_image(image: str, authority: Authority) -> Iterator[str]:
    moved = shlex.join(
        [
            "env",
            f"CODEX_REFRESH_TOKEN_URL_OVERRIDE={authority.url}/oauth/token",
            f"CODEX_APP_SERVER_LOGIN_ISSUER={authority.url}",
            "codex",
            "-c",
            f'chatgpt_base_url="{authority.url}/chatgpt"',
        ]
    )
    tag = f"hutch-test-logins:{authority.url.rpartition(':')[2]}"
    docker(
        "build", "-q", "-t", tag, "-",
        stdin=f"FROM {image}\nENV HUTCH_CLI_CODEX={json.dumps(moved)}\n",
    )  # fmt: skip
    yield tag
    docker("rmi", tag)


@pytest.fixture(scope="module")
def service(
    login_image: str, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    with running_service(
        tmp_path_factory.mktemp("logins"),
        ISOLATION="gvisor",
        IMAGE=login_image,
        PREWARM="codex",
        CODEX_LOGIN_BASE_URL=f"{authority.url}/codex/v1",
        EGRESS_ALLOW=authority.url.removeprefix("http://"),
        EGRESS_NETWORKS=f"{OUTSIDE}/32",
    ) as running:
        yield running


@pytest.fixture
def user(service: Service) -> User:
    return service.make_user(credentials=False)


def sign_in(user: User, authority: Authority) -> None:
    body = {"kind": "chatgpt", "auth_json": json.dumps(authority.sign_in())}
    user.client.call("PUT", "/v1/credentials/codex", json=body)


def end_container(user: User) -> None:
    user.client.call("DELETE", "/v1/container")


def works_or_says_so(user: User, authority: Authority) -> bool:
    """In whatever container there is, with a renewal: True if it works, False if it needs a new
    login and says so, in the run's error and in the credential.
    """
    authority.expire()
    if user.client.call("GET", "/v1/credentials/codex")["state"] == "needs_login":
        with pytest.raises(ApiError) as refused:
            user.run("codex", "are you there?")
        assert refused.value.code == "needs_login"
        return False
    run = user.run("codex", "are you there?")
    if run["error"] and run["error"]["code"] == "sandbox_lost":  # nobody had missed it yet
        run = user.run("codex", "are you there now?")
    if run["state"] == "succeeded":
        return True
    assert run["error"]["code"] == "needs_login", run
    assert "hutch login codex" in run["error"]["message"]
    credential = user.client.call("GET", "/v1/credentials/codex")
    assert credential["state"] == "needs_login", credential
    assert credential["reason"]
    return False


class Renewing:
    """A run by another thread; made, it is at the moment when its login has been renewed."""

    def __init__(self, user: User, authority: Authority) -> None:
        before = len(authority.rotated_at)
        authority.expire()
        self.run: dict[str, Any] = {}
        self._user = user
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        until = time.monotonic() + 30
        while len(authority.rotated_at) == before:
            assert time.monotonic() < until, f"the login was not renewed: {self.run}"
            time.sleep(0.001)

    def _ask(self) -> None:
        try:
            self.run = self._user.run("codex", "renew it [[slow:5,20]]")
        except Exception as error:  # noqa: BLE001  the API may be the one that is killed
            self.run = {"broken": repr(error)}

    def end(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


def test_a_login_goes_from_container_to_container(user: User, authority: Authority) -> None:
    sign_in(user, authority)
    assert user.client.call("GET", "/v1/credentials/codex")["kind"] == "login"
    replayed = authority.replayed
    for _ in range(2):
        assert works_or_says_so(user, authority)
        assert works_or_says_so(user, authority)
        end_container(user)  # at once: what was renewed a moment ago is stored before
    assert authority.replayed == replayed


def test_signing_in_through_the_api(user: User, authority: Authority) -> None:
    path = "/v1/credentials/codex/login"
    started = user.client.call("POST", path)
    assert started["url"] == f"{authority.url}/codex/device"
    assert user.client.call("GET", path)["state"] == "pending"
    authority.approve(started["code"])
    until = time.monotonic() + 30
    while (found := user.client.call("GET", path))["state"] == "pending":
        assert time.monotonic() < until
        time.sleep(0.2)
    assert found["state"] == "done", found
    assert works_or_says_so(user, authority)
    # Back to none at all: the container has nothing left either.
    user.client.call("DELETE", "/v1/credentials/codex")
    code = (
        "import json, pathlib; print(json.dumps(pathlib.Path.home().joinpath("
        "'.codex/auth.json').exists()))"
    )
    assert user.python(code) is False
    end_container(user)


def test_signing_in_at_the_command_line(service: Service, user: User, authority: Authority) -> None:
    environment = {**os.environ, "HUTCH_URL": service.url, "HUTCH_API_KEY": user.key}
    command = [str(HUTCH), "login", "codex"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Enter this code there:"):
                authority.approve(line.split()[-1])
            last = line
        assert process.wait(timeout=30) == 0
    assert "Signed in" in last
    assert works_or_says_so(user, authority)
    end_container(user)


def test_a_refused_login_is_told_in_every_place(user: User, authority: Authority) -> None:
    sign_in(user, authority)
    assert works_or_says_so(user, authority)
    authority.families[-1].alive = False
    assert not works_or_says_so(user, authority)
    with pytest.raises(ApiError) as refused:
        user.run("codex", "once more")
    assert refused.value.code == "needs_login"
    sign_in(user, authority)  # and a new one is all it takes
    assert works_or_says_so(user, authority)
    end_container(user)


@pytest.mark.timeout(280)
@pytest.mark.parametrize("part", ["api", "gateway", "container"])
def test_a_part_is_killed_while_a_login_is_renewed(
    service: Service, user: User, authority: Authority, part: str
) -> None:
    outcomes = []
    for moment in MOMENTS_S:
        sign_in(user, authority)
        assert works_or_says_so(user, authority)
        renewing = Renewing(user, authority)
        time.sleep(moment)
        if part == "container":
            docker("kill", user.container())
        elif part == "api":
            service.restart("api")
        else:
            service.restart("gateway")
        renewing.end()
        if part != "container":  # the next container has nothing but what is stored
            end_container(user)
        outcomes.append(works_or_says_so(user, authority))
    print(part, dict(zip(MOMENTS_S, outcomes, strict=True)))  # noqa: T201  shown with -s
    assert outcomes[-1], "what was renewed is stored within 0.4 s"
    if part == "api":
        assert all(outcomes), "the container had it all the time"
    end_container(user)
