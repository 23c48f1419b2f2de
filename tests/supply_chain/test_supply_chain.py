"""The locks pin everything by hash, and nobody who was not asked is taken for clean."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from supply_chain.__main__ import Told, of_npm, of_python

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("folder", ["image", "tests/official_clients"])
def test_every_npm_part_is_locked_by_hash(folder: str) -> None:
    packages = json.loads((ROOT / folder / "package-lock.json").read_text())["packages"]
    parts = {name: one for name, one in packages.items() if name}
    assert parts
    assert [name for name, one in parts.items() if "sha512-" not in one.get("integrity", "")] == []


@pytest.mark.parametrize("folder", ["", "tests/official_clients"])
def test_every_python_part_is_locked_by_hash(folder: str) -> None:
    packages = tomllib.loads((ROOT / folder / "uv.lock").read_text())["package"]
    parts = [one for one in packages if not {"editable", "virtual"} & set(one["source"])]
    assert len(parts) > 50
    for one in parts:
        files = [*one.get("wheels", []), *([one["sdist"]] if "sdist" in one else [])]
        assert files, one["name"]
        assert all(file["hash"].startswith("sha256:") for file in files), one["name"]


CLEAN = {"name": "a", "version": "1", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "not found"}
BAD = {"name": "c", "version": "3", "vulns": [{"id": "CVE-1"}, {"id": "CVE-2"}]}


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (of_python(None), "NOT CHECKED"),
        (of_python({}), "NOT CHECKED"),
        (of_python({"dependencies": [SKIPPED, SKIPPED]}), "NOT CHECKED for known"),
        (of_python({"dependencies": [CLEAN, SKIPPED]}), "of 1 packages; 1 NOT CHECKED"),
        (of_python({"dependencies": [CLEAN]}), "no vulnerability is known of 1 packages"),
        (of_python({"dependencies": [BAD, SKIPPED]}), "KNOWN VULNERABILITIES: c 3 (CVE-1, CVE-2)"),
        (of_npm(None), "NOT CHECKED"),
        (of_npm({"error": {"code": "E405"}}), "NOT CHECKED"),
        (of_npm({"vulnerabilities": {}, "metadata": {"dependencies": {"total": 28}}}), "of 28"),
        (of_npm({"vulnerabilities": {"x": {"severity": "high"}}}), "VULNERABILITIES: x (high)"),
    ],
)
def test_what_is_said(told: Told, says: str) -> None:
    assert says in told.sentence()
    assert bool(told.vulnerable) == ("KNOWN VULNERABILITIES" in told.sentence())
