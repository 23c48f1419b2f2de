"""What is written into the engine's settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.errors import HostNotReady
from hutch.host import engine
from hutch.host.engine import with_live_restore, with_runtime

RUNSC = {"path": "/usr/bin/runsc", "runtimeArgs": ["--platform=systrap"]}
NAMES = st.text(min_size=1).filter(lambda name: name not in {"runtimes", "runsc"})


@given(st.dictionaries(NAMES, st.integers() | st.text()), st.dictionaries(NAMES, st.just({})))
def test_everything_else_stays_as_it_was(
    other: dict[str, object], runtimes: dict[str, object]
) -> None:
    before = {**other, "runtimes": runtimes} if runtimes else other
    once = with_runtime(json.dumps(before), "runsc", RUNSC)
    assert json.loads(once) == {**other, "runtimes": {**runtimes, "runsc": RUNSC}}
    assert with_runtime(once, "runsc", RUNSC) == once
    assert json.loads(with_runtime(once, "runsc", None)) == before


@given(st.dictionaries(NAMES, st.integers() | st.text()))
def test_containers_outlive_the_engine_and_all_else_stays(other: dict[str, object]) -> None:
    once = with_live_restore(json.dumps(other))
    assert json.loads(once) == {**other, "live-restore": True}
    assert with_live_restore(once) == once


def test_an_empty_file_counts_as_none() -> None:
    assert json.loads(with_runtime("", "runsc", RUNSC)) == {"runtimes": {"runsc": RUNSC}}


@pytest.mark.parametrize("text", ["{", "[]", '{"runtimes": []}', "# a comment"])
def test_what_we_do_not_understand_is_left_alone(text: str) -> None:
    with pytest.raises(HostNotReady, match="not what the engine expects"):
        with_runtime(text, "runsc", RUNSC)
    with pytest.raises(HostNotReady, match="not what the engine expects"):
        with_live_restore(text)


def test_the_copy_is_of_the_first_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "DAEMON_JSON", tmp_path / "daemon.json")
    engine.keep_copy()
    assert list(tmp_path.iterdir()) == []
    for text in ("theirs", "ours"):
        (tmp_path / "daemon.json").write_text(text)
        engine.keep_copy()
    assert (tmp_path / "daemon.json.before-hutch").read_text() == "theirs"
