"""Several API processes on one database: the one that leads is killed under load."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from hutch.client import ClientError
from tests.integration.driving import Following, check_log
from tests.service import HUTCH, READY_S, Service, User, free_ports, running_service
from tests.wire import Wire


@dataclass
class Process:
    """One of the API processes beside the first."""

    service: Service
    port: int
    popen: subprocess.Popen[bytes]
    users: list[User] = field(default_factory=list)

    def user(self, user: User) -> User:
        """The same one, by way of this process."""
        client = Wire(f"http://127.0.0.1:{self.port}", user.key)
        self.users.append(User(user.id, user.key, client, user.provider_keys))
        return self.users[-1]

    def leader(self) -> dict[str, object]:
        with Wire(f"http://127.0.0.1:{self.port}", self.service.admin_key) as admin:
            found = admin.call("GET", "/v1/admin/tasks")["leader"]
            assert isinstance(found, dict)
            return found


@contextlib.contextmanager
def process(service: Service) -> Iterator[Process]:
    (port,) = free_ports(1)
    environment = {**service.environment, "HUTCH_PORT": str(port)}
    with (service.settings.logs_dir / f"api-{port}.log").open("ab") as log:
        popen = subprocess.Popen(
            (str(HUTCH), "serve"), env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    one = Process(service, port, popen)
    try:
        until = time.monotonic() + READY_S
        with Wire(f"http://127.0.0.1:{port}", "") as client:
            while True:
                try:
                    client.call("GET", "/readyz")
                    break
                except ClientError:
                    assert popen.poll() is None, "it ended at once"
                    assert time.monotonic() < until, "not ready"
                    time.sleep(0.05)
        yield one
    finally:
        for user in one.users:
            user.client.__exit__()
        popen.terminate()
        popen.wait(timeout=20)


@pytest.fixture(scope="module")
def shared(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("leader")
    with running_service(
        directory, database="postgresql", ISOLATION="gvisor", IMAGE=image
    ) as running:
        yield running


def test_a_leader_is_killed_and_nobody_notices(shared: Service) -> None:
    user = shared.make_user()
    with process(shared) as second, process(shared) as third:
        before = second.leader()
        assert before["url"] == shared.url
        prompts = [f"[[slow:100,40]] while the leader dies, seen by {n}" for n in range(2)]
        streams = [
            Following(one.user(user), "claude", prompt)
            for one, prompt in zip((second, third), prompts, strict=True)
        ]
        for prompt in prompts:
            shared.model.wait_asked(prompt)
        time.sleep(0.7)
        shared.kill("api")
        died = time.monotonic()
        # A request that comes while nobody leads waits, and is answered.
        assert third.user(user).client.call("GET", "/v1/runs")["runs"]
        answered_s = time.monotonic() - died
        after = third.leader()
        assert after["url"] in {f"http://127.0.0.1:{one.port}" for one in (second, third)}
        assert int(str(after["term"])) == int(str(before["term"])) + 1
        print(f"answered {answered_s:.2f} s after the kill")  # noqa: T201  a figure for the reader
        for stream, prompt in zip(streams, prompts, strict=True):
            assert stream.last(within_s=60)["stop_reason"] == "end_turn"
            assert stream.broken is None
            check_log(stream.events)
            assert len(shared.model.asked(prompt)) == 1
        # The first comes back, and passes on.
        shared.start("api")
        run = user.run("claude", "after all of that")
        assert run["state"] == "succeeded"
        assert second.leader() == after


def test_a_leader_that_stops_hands_over(shared: Service) -> None:
    user = shared.make_user()
    with process(shared) as second:
        leader = second.leader()
        prompt = "[[slow:60,40]] while the leader is told to stop"
        stream = Following(second.user(user), "codex", prompt)
        shared.model.wait_asked(prompt)
        shared.terminate("api")
        asked = second.user(user).run("codex", "meanwhile")
        assert asked["state"] == "succeeded"
        assert stream.last(within_s=60)["stop_reason"] == "end_turn"
        check_log(stream.events)
        assert int(str(second.leader()["term"])) == int(str(leader["term"])) + 1
        shared.start("api")
    # With the second one gone the first one leads again.
    assert user.run("codex", "and back")["state"] == "succeeded"
