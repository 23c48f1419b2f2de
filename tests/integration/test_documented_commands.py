"""Every command of docs/api.md, in its order, against a live service."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import Service, User, running_service

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
# What a service without exits, a second image and a provider's sign-in has to say; and what would
# take other services' images with it.
EXPECTED = {
    "/v1/credentials/codex/login": "503",  # no internet
    "/v1/credentials/claude/login/code": "400",  # none has begun
    "/v1/messages/count_tokens": "400",  # always
    "/v1/agreements": "404",  # none is asked for
    "/v1/admin/image/roll": "404",
    "/v1/admin/image/rollback": "409",
    "/v1/git/clone": "502",  # the same
    "/exit": "503",  # none was imported
    "/sbx_none/release": "404",
    "/exit_none/probe": "404",
    "/exit_none/drain": "404",
    "/exit_none": "404",
}
LEFT_OUT = ("/v1/admin/image/prune", "uv run")


@pytest.fixture(scope="module")
def service(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Of its own: the page deletes and drains what others use."""
    with running_service(tmp_path_factory.mktemp("documented"), IMAGE=image) as running:
        yield running


def blocks() -> Iterator[str]:
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        if not any(path in block for path in LEFT_OUT):
            yield block


def test_every_documented_command_works(service: Service, user: User, tmp_path: Path) -> None:
    (tmp_path / ".hutch").mkdir()
    (tmp_path / ".hutch" / "client.json").write_text(json.dumps({"key": user.key}))
    (tmp_path / ".hutch" / "admin-key").write_text(service.admin_key)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    told = r"%{stderr}HTTP %{http_code} %{method} %{url_effective}\n"
    script = "\n".join(
        (
            "set -u",
            f"curl() {{ command curl --max-time 100 --write-out '{told}' \"$@\"; }}",
            *blocks(),
        )
    ).replace("http://127.0.0.1:8484", service.url)
    environment = {
        **os.environ,
        "ANTHROPIC_API_KEY": user.provider_keys["claude"],
        "CONTAINER": "sbx_none",
        "EXIT": "exit_none",
        "no_proxy": "127.0.0.1",
    }
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    answers = re.findall(r"^HTTP (\d+) (\S+) http://[^/]+([^?\s]*)", done.stderr, re.MULTILINE)
    wrong = [
        (status, method, path)
        for status, method, path in answers
        if not status.startswith("2")
        and not any(path.endswith(end) and status == EXPECTED[end] for end in EXPECTED)
    ]
    assert wrong == [], done.stderr[-6000:]
    for trouble in ("unbound variable", "command not found", "Traceback"):
        assert trouble not in done.stderr, done.stderr[-6000:]
    assert len(answers) >= PAGE.read_text().count("curl -s") - len(LEFT_OUT) - 3
    assert '"type":"run.finished"' in done.stdout
