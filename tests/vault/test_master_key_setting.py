"""Master keys, and the database's password, in the environment reach the API, and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hutch.cli.up import API, _programs
from hutch.config import Settings
from hutch.vault.keys import MasterKey

NAMES = ("HUTCH_MASTER_KEY", "HUTCH_MASTER_KEY_PREVIOUS", "HUTCH_DATABASE_URL")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts = [MasterKey.generate().text() for _ in NAMES[:2]]
    texts.append("postgresql://hutch:the-password-4711@database.test/hutch")
    for name, text in zip(NAMES, texts, strict=True):
        monkeypatch.setenv(name, text)
    return texts


def test_they_do_not_print(given: list[str], tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert settings.master_key.get_secret_value() == given[0]
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert not any(text in shown for text in given)


def test_only_the_api_is_given_them(given: list[str], tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    for program in _programs(settings, "127.0.0.1"):
        found = [text for text in given if text in str(program.environment)]
        assert found == (given if program.name == API else [])
        assert not any(text in str(program.argv) for text in given)


def test_what_we_start_does_not_inherit_them(given: list[str], tmp_path: Path) -> None:
    code = (
        "import os, subprocess\n"
        "from hutch.cli.api_secrets import settings_apart_from_environment\n"
        "settings = settings_apart_from_environment()\n"
        "assert settings.master_key.get_secret_value()\n"
        "print(subprocess.run(['env'], capture_output=True, text=True).stdout)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HUTCH_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert "HUTCH_DATA_DIR" in done.stdout
    assert not any(text in done.stdout for text in given)
    assert not any(name in done.stdout for name in NAMES)


@pytest.mark.parametrize("wrong", ["mode", "variable"])
def test_a_start_that_is_refused_ends_with_what_to_type(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "master-keys"
    canary = "bm8ga2V5IGJ1dCBhIGNhbmFyeQ=="
    settings = {
        "HUTCH_DATA_DIR": str(tmp_path),
        "HUTCH_BACKEND": "process",
        "HUTCH_INSECURE_PROCESS_BACKEND": "true",
        "HUTCH_PORT": "1",  # never reached
    }
    if wrong == "mode":
        path.write_text(f"# keys\n{MasterKey.generate().text()}\n")
        path.chmod(0o640)
        says = f"chmod 600 {path}"
    else:
        settings["HUTCH_MASTER_KEY"] = canary
        says = "openssl rand -base64 32"
    done = subprocess.run(
        [sys.executable, "-m", "hutch.cli.main", "serve"],
        env={"PATH": os.environ["PATH"], **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert says in done.stderr.splitlines()[-1]
    assert canary not in done.stdout + done.stderr
