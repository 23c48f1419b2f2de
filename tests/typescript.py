"""The TypeScript client, built as its users build it."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "clients" / "typescript"
_BUILD_S = 240


def npm(*arguments: str, cwd: Path) -> None:
    done = subprocess.run(
        ["npm", *arguments], cwd=cwd, capture_output=True, text=True, timeout=_BUILD_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@functools.cache
def built() -> Path:
    """A folder of this process with the packages of the lock, and ``dist``."""
    folder = Path(tempfile.mkdtemp(prefix="hutch-typescript-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    wanted = shutil.ignore_patterns("node_modules", "dist")
    shutil.copytree(SOURCE, folder, ignore=wanted, dirs_exist_ok=True)
    npm("ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
    npm("run", "build", cwd=folder)
    return folder


def node(script: str, *arguments: str, **environment: str) -> str:
    """What a script in ``dist`` prints."""
    done = subprocess.run(
        ["node", str(built() / "dist" / script), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
