from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hutch.cli import main
from tests.client.faulty import FaultyService, serving


@pytest.fixture
def service() -> Iterator[FaultyService]:
    with serving(FaultyService(random.Random(1), faults=0)) as running:  # noqa: S311  no secret
        yield running


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of this machine's own settings, profiles and histories."""
    for name in ("HUTCH_URL", "HUTCH_API_KEY", "HUTCH_ADMIN_KEY", "HUTCH_USER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HUTCH_PROFILE", "")  # `hutch --profile` sets it: put back afterwards
    monkeypatch.setenv("HUTCH_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def hutch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command line in this process; its exit code."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["hutch", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.main()
        code = ended.value.code
        return code if isinstance(code, int) else 0

    return run


@pytest.fixture
def connected(service: FaultyService, monkeypatch: pytest.MonkeyPatch) -> FaultyService:
    monkeypatch.setenv("HUTCH_URL", service.url)
    monkeypatch.setenv("HUTCH_API_KEY", "hutch_user_key")
    return service
