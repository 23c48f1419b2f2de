"""docs/api.md tells of every endpoint, event and error code that the sources have, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from hutch.api.app import create_app
from hutch.app import Hutch
from hutch.errors import HutchError
from hutch.runs.models import OWN_EVENT_TYPES
from hutch_runtime.protocol import ERROR_CODES, EVENT_TYPES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text()


def section(title: str) -> str:
    """From a heading to the next one of any level."""
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert match is not None, f"no section {title!r}"
    return match.group(1)


def named(table: str) -> set[str]:
    """What stands in backticks in the first column of a table."""
    cells = (line.split("|")[1] for line in table.splitlines() if line.startswith("| "))
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def strings_given_to(function: str, tree: ast.AST) -> Iterator[str]:
    """The literal first argument of each call of ``function``."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == function
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            yield node.args[0].value


def errors_below(kind: type[HutchError]) -> Iterator[type[HutchError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from errors_below(child)


def codes_of_requests() -> set[str]:
    codes = {kind.code for kind in errors_below(HutchError)}
    for path in (ROOT / "src" / "hutch" / "api").glob("*.py"):
        tree = ast.parse(path.read_text())
        codes.update(strings_given_to("body", tree))
        for node in ast.walk(tree):  # from HTTP status to code
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if (
                        isinstance(key, ast.Constant)
                        and isinstance(key.value, int)
                        and isinstance(value, ast.Constant)
                    ):
                        codes.add(str(value.value))
    return codes


def codes_of_runs() -> set[str]:
    tree = ast.parse((ROOT / "src" / "hutch" / "runs" / "dispatch.py").read_text())
    codes = {*ERROR_CODES, *strings_given_to("_Ended", tree), "sandbox_failed", "exit_unavailable"}
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "code":  # _end(…, code="…")
            if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                codes.add(node.value.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Tuple):  # _LOST = …
            code = node.value.elts[0]
            if isinstance(code, ast.Constant) and isinstance(code.value, str):
                codes.add(code.value)
    return codes


def test_every_code_of_a_request_is_documented() -> None:
    assert named(section("Of a request")) == codes_of_requests()


def test_every_code_of_a_run_is_documented() -> None:
    codes = codes_of_runs()
    assert {"sandbox_lost", "timeout", "sandbox_misbehaved", "session_lost"} <= codes
    assert named(section("Of a run")) == codes


def test_every_event_type_is_documented() -> None:
    assert named(section("Events")) == EVENT_TYPES | OWN_EVENT_TYPES


def test_every_endpoint_is_documented_with_a_command() -> None:
    def never() -> AbstractAsyncContextManager[Hutch]:
        raise AssertionError("nothing is served here")

    paths = create_app(never).openapi()["paths"]
    served = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert set(re.findall(r"\*\*`([A-Z]+ /[^`]*)`\*\*", PAGE)) == served
    assert PAGE.count("curl -s") >= len(served)
