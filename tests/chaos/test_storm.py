"""A short storm on the machine's own engine, which is spared; `make chaos` is the long one."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from chaos.storm import Plan, weather
from hutch.config import Settings
from hutch.images.build import build

SEED = int(os.environ.get("CHAOS_SEED", "369"))  # nine kinds of victims in ten kills


@pytest.mark.timeout(400)  # half a minute of kills; the rest is for a machine that does other work
def test_a_short_storm_loses_nothing(tmp_path: Path) -> None:
    image = Settings().image
    asyncio.run(build(Settings(), say=print))
    plan = Plan(SEED, kills=10, users=3, mean_s=3, minutes=2, image=image)
    outcome = weather(plan, tmp_path, engine=None)
    report = outcome.report()
    print(report)  # noqa: T201  what a failure is told by
    assert outcome.findings == []
    assert report["runs_by_end"]["succeeded"] >= 27  # of each user, once all is well again
