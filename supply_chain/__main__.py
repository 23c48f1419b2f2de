"""``python -m supply_chain sbom | audit``, run by `make sbom` and `make check`.

The parts are those of the lock files, which the builds install by hash: nothing is resolved anew.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
IMAGE: Final = ROOT / "image"
OUT: Final = ROOT / "build" / "sbom"
_BIN: Final = Path(sys.executable).parent
# Of the databases: `make check` is to take seconds, and not to need a network.
_ANSWER_S: Final = 15.0
_MAKE_S: Final = 120.0
_PYTHON: Final = {
    "service": ("--no-default-groups",),
    "sandbox": ("--only-group", "runtime"),
}


def sbom() -> int:
    """CycloneDX files: the service's Python, the sandbox's Python, the sandbox's npm parts."""
    OUT.mkdir(parents=True, exist_ok=True)
    for name, groups in _PYTHON.items():
        path = OUT / f"{name}-python.cdx.json"
        argv = (str(_BIN / "cyclonedx-py"), "requirements", "--of", "JSON", "-o", str(path), "-")
        _run(argv, _MAKE_S, stdin=_locked(groups)).check_returncode()
        _say(path)
    path = OUT / "sandbox-npm.cdx.json"
    argv = ("npm", "sbom", "--sbom-format", "cyclonedx", "--package-lock-only", "--omit", "dev")
    done = _run(argv, _MAKE_S, cwd=IMAGE)
    done.check_returncode()
    path.write_text(done.stdout)
    _say(path)
    return 0


def audit() -> int:
    """1 if a vulnerability is known; what could not be asked is said, and is no failure."""
    with ThreadPoolExecutor() as pool:
        python, npm = pool.submit(_ask_python), pool.submit(_ask_npm)
        told = {"Python": of_python(python.result()), "npm": of_npm(npm.result())}
    for part, one in told.items():
        sys.stdout.write(f"{part}: {one.sentence()}\n")
    return 1 if any(one.vulnerable for one in told.values()) else 0


@dataclass(frozen=True, slots=True)
class Told:
    checked: int = 0
    unchecked: int = 0
    vulnerable: tuple[str, ...] = ()

    def sentence(self) -> str:
        if self.vulnerable:
            return "KNOWN VULNERABILITIES: " + "; ".join(self.vulnerable)
        if not self.checked:
            return "NOT CHECKED for known vulnerabilities: the database does not answer"
        rest = f"; {self.unchecked} NOT CHECKED" if self.unchecked else ""
        return f"no vulnerability is known of {self.checked} packages{rest}"


def of_python(answer: Mapping[str, Any] | None) -> Told:
    """pip-audit reports those that it could not look up beside the others, and is content."""
    packages = (answer or {}).get("dependencies", [])
    unchecked = sum("skip_reason" in one for one in packages)
    vulnerable = tuple(
        f"{one['name']} {one.get('version', '')} ({', '.join(v['id'] for v in one['vulns'])})"
        for one in packages
        if one.get("vulns")
    )
    return Told(len(packages) - unchecked, unchecked, vulnerable)


def of_npm(answer: Mapping[str, Any] | None) -> Told:
    if not answer or "vulnerabilities" not in answer:
        return Told()
    found = answer["vulnerabilities"].items()
    total = answer.get("metadata", {}).get("dependencies", {}).get("total", 0)
    return Told(max(total, 1), 0, tuple(f"{name} ({one['severity']})" for name, one in found))


def _ask_python() -> dict[str, Any] | None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(_locked(("--all-groups",)))
        file.flush()
        return _answer(
            (
                *(str(_BIN / "pip-audit"), "--requirement", file.name, "--format", "json"),
                *("--disable-pip", "--require-hashes", "--progress-spinner", "off"),
            )
        )


def _ask_npm() -> dict[str, Any] | None:
    argv = ("npm", "audit", "--package-lock-only", "--omit", "dev", "--json", "--fetch-retries=0")
    return _answer(argv, cwd=IMAGE)


def _answer(argv: Sequence[str], cwd: Path = ROOT) -> dict[str, Any] | None:
    """Exit codes say both that something was found and that nobody was asked: the text decides."""
    try:
        answer = json.loads(_run(argv, _ANSWER_S, cwd=cwd).stdout)
    except (subprocess.TimeoutExpired, OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def _locked(groups: Sequence[str]) -> str:
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    argv = (uv, "export", "--locked", "--no-emit-project", "--quiet", *groups)
    done = _run(argv, _MAKE_S)
    done.check_returncode()
    return done.stdout


def _run(
    argv: Sequence[str], within_s: float, *, cwd: Path = ROOT, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=within_s, check=False
    )


def _say(path: Path) -> None:
    parts = len(json.loads(path.read_text())["components"])
    sys.stdout.write(f"{path.relative_to(ROOT)}: {parts} components\n")


if __name__ == "__main__":
    sys.exit({"sbom": sbom, "audit": audit}[sys.argv[1]]())
