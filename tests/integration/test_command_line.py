"""``hutch`` as a program, against the real service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hutch_runtime.protocol import PROVIDERS, Provider
from tests.service import HUTCH, Service, User, fingerprint


def environment(service: Service, user: User) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HUTCH_")}
    ours = {
        "HUTCH_URL": service.url,
        "HUTCH_API_KEY": user.key,
        "HUTCH_ADMIN_KEY": service.admin_key,
        "HUTCH_DATA_DIR": "/nonexistent",  # nothing of this machine's own installation
        "COLUMNS": "200",
    }
    return {**kept, **ours}


def hutch(
    service: Service, user: User, *arguments: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HUTCH, *arguments],
        env=environment(service, user),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def started(service: Service, user: User, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    # A shell's background jobs ignore SIGINT, and so would what they start, and so on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [HUTCH, *arguments],
        env=environment(service, user),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_run(service: Service, user: User, provider: Provider) -> None:
    user.client.get_or_create_container()  # else it says that it waits for one
    done = hutch(service, user, "run", provider, "hello from a terminal")
    assert (done.returncode, done.stderr) == (0, "")
    assert 'you said "hello from a terminal"' in done.stdout
    assert f"key={fingerprint(user.provider_keys[provider])}" in done.stdout
    assert done.stdout.count("you said") == 1
    assert done.stdout.endswith("\n")


def test_run_prints_events_and_reads_standard_input(service: Service, user: User) -> None:
    done = hutch(service, user, "run", "codex", "-", "--json", stdin="$(id) `id`\n")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert "$(id) `id`" in events[-1]["text"]
    session = user.client.get_run(events[0]["run_id"])["session_id"]
    more = hutch(service, user, "run", "codex", "[[recall]]", "--session", session)
    assert "$(id) `id`" in more.stdout


def test_run_fails_with_a_message(service: Service, user: User) -> None:
    done = hutch(service, user, "run", "codex", "[[status:401]]")
    assert done.returncode == 1
    assert "(provider_auth)" in done.stderr
    nobody = hutch(service, user, "run", "nobody", "hello")
    assert nobody.returncode != 0
    assert "Traceback" not in done.stderr + nobody.stderr


@pytest.mark.parametrize("provider", PROVIDERS)
def test_ctrl_c_cancels_the_run(service: Service, user: User, provider: Provider) -> None:
    prompt = f"[[slow:600,50]] {provider}, until Ctrl-C"
    with started(service, user, "run", provider, prompt) as process:
        assert process.stdout is not None
        assert process.stdout.read(40)  # it streams: the answer has begun
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=15) == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    page = user.client.call("GET", "/v1/runs")["runs"]
    assert (page[0]["provider"], page[0]["state"]) == (provider, "cancelled")


def test_ps_shows_containers(service: Service, user: User) -> None:
    user.run("codex", "be there")
    container = user.client.container()
    table = hutch(service, user, "ps")
    assert table.returncode == 0, table.stderr
    line = next(line for line in table.stdout.splitlines() if container["id"] in line)
    assert user.id in line
    assert "gvisor" in line
    listed: list[dict[str, Any]] = json.loads(hutch(service, user, "ps", "--json").stdout)
    mine = next(one for one in listed if one["id"] == container["id"])
    assert mine["stats"]["memory_bytes"] > 0
    quotas = container["quotas"]
    assert 0 < quotas["memory"]["used_bytes"] <= quotas["memory"]["hard_bytes"] == 1024 << 20
    assert 0 < quotas["processes"]["used"] <= quotas["processes"]["limit"]
    assert [(disk["place"], disk["limit_files"]) for disk in quotas["disk"]] == [
        ("workspace", None),  # gVisor counts them into memory
        ("home", None),
        ("tmp", None),
    ]
    assert mine["cli_versions"] == container["cli_versions"]


def test_admin_users(service: Service, user: User) -> None:
    made = hutch(service, user, "admin", "users", "create", "Ann", "--tier", "free", "--json")
    assert made.returncode == 0, made.stderr
    ann = json.loads(made.stdout)
    assert ann["name"] == "Ann"
    assert service.client(ann["key"]).call("GET", "/v1/runs") == {"runs": [], "next": None}
    assert ann["id"] in hutch(service, user, "admin", "users", "list").stdout
    more = json.loads(hutch(service, user, "admin", "users", "key", ann["id"], "--json").stdout)
    assert service.client(more["key"]).call("GET", "/v1/runs")["runs"] == []
    assert hutch(service, user, "admin", "users", "delete", ann["id"]).returncode == 0
    assert ann["id"] not in hutch(service, user, "admin", "users", "list").stdout


def test_a_service_that_is_not_there(service: Service, user: User) -> None:
    done = subprocess.run(
        [HUTCH, "run", "claude", "hello"],
        env={**environment(service, user), "HUTCH_URL": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 6
    assert "does not answer" in done.stderr
    assert "make up" in done.stderr
