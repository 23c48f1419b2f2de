"""docs/operating.md has every setting with its default, every variable and every log event."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic_core import PydanticUndefined

from hutch.config import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operating.md").read_text()


def rows(heading: str) -> dict[str, list[str]]:
    """The rows of the first table after a heading, by the name in their first cell."""
    _, _, rest = PAGE.partition(f"\n## {heading}\n")
    table = re.search(r"(?:^\|.*\n)+", rest, re.MULTILINE)
    assert table is not None
    lines = table.group().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells}


def written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, float) and value >= 10:
        return f"{value:g}"
    return str(value)


def sources() -> Iterator[Path]:
    return (ROOT / "src").rglob("*.py")


def test_every_setting_is_documented_with_its_default() -> None:
    documented = rows("Settings")
    assert list(documented) == [f"HUTCH_{name.upper()}" for name in Settings.model_fields]
    for name, field in Settings.model_fields.items():
        default, meaning = documented[f"HUTCH_{name.upper()}"]
        assert meaning
        if field.default is PydanticUndefined:  # it depends on the machine, and is in words
            assert name == "data_dir"
        else:
            text = written(field.default)
            assert default == (f"`{text}`" if text else "empty")


def test_every_variable_in_the_sources_is_documented() -> None:
    found = {
        name.rstrip("_")
        for path in sources()
        for name in re.findall(r"\bHUTCH_[A-Z0-9_]+", path.read_text())
    }
    assert found <= set(re.findall(r"\bHUTCH_[A-Z0-9_]+", PAGE)) | {"HUTCH_CLI"}


def logged() -> Iterator[str]:
    """The first argument of each ``_log.level("…")`` of the orchestrator and the gateway."""
    for path in (ROOT / "src" / "hutch").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "_log"
                and isinstance(node.args[0], ast.Constant)
            ):
                yield str(node.args[0].value)


def test_every_log_event_is_documented() -> None:
    assert set(rows("Logs")) == set(logged())
