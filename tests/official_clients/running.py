"""The programs of this folder, with the packages that ``make official-clients`` installs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / "build" / "official-clients" / "bin" / "python"
LIMIT_S = 120


def run(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    assert PYTHON.exists(), "others' clients are not there: make official-clients"
    # No key and no proxy of this machine's own.
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        argv,
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def seen_by(program: str, **environment: str) -> dict[str, Any]:
    """The JSON object that a program of this folder prints."""
    interpreter = "node" if program.endswith(".js") else str(PYTHON)
    done = run(interpreter, str(HERE / program), **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen
