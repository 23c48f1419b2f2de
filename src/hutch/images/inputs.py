"""What the image is made from, and one hash over all of it."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from hutch.config import source_checkout
from hutch.errors import HostNotReady
from hutch_runtime.protocol import Provider

PACKAGES: Final[dict[Provider, str]] = {
    "claude": "@anthropic-ai/claude-code",
    "codex": "@openai/codex",
    "gemini": "@google/gemini-cli",
}
# Between the halves; `docker build` by hand reads it as it stands.
_SECOND_STAGE: Final = "\nFROM tools\n"


@dataclass(frozen=True, slots=True)
class Inputs:
    """A clone's share of an image. The base is the machine's and not in the hash."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "image"

    @property
    def build(self) -> Path:
        """Where what was fetched is kept; git ignores it."""
        return self.folder / "build"

    @property
    def lock(self) -> Path:
        return self.folder / "package-lock.json"

    @property
    def runtime(self) -> Path:
        return self.root / "src" / "hutch_runtime"

    def runtime_files(self) -> list[Path]:
        return sorted(
            path
            for path in self.runtime.rglob("*")
            if path.is_file() and path.suffix in {".py", ".typed"}
        )

    def versions(self) -> dict[str, str]:
        """Of each CLI, from the lock, and of the runtime: Hutch's, and a hash of its code."""
        packages = json.loads(self.lock.read_text())["packages"]
        found: dict[str, str] = {
            name: packages[f"node_modules/{PACKAGES[name]}"]["version"] for name in PACKAGES
        }
        code = _digest(self.runtime_files(), self.root)
        return {**found, "runtime": f"{version('hutch')}+{code[:8]}"}

    def stages(self) -> tuple[str, str]:
        """The Dockerfile's two halves, each a Dockerfile: the tools with the CLIs, and the runtime.

        Built apart, so that a change of the runtime need not send the CLIs to the engine again:
        the engine's classic builder cannot leave out a stage.
        """
        text = (self.folder / "Dockerfile").read_text()
        first, second = text.split(_SECOND_STAGE)
        return first, f"ARG TOOLS\nFROM ${{TOOLS}}\n{second}"

    def tools_content(self) -> str:
        """Changes with any input that the first half is made from; hex."""
        files = [self.folder / "package.json", self.lock, self._recipe]
        stage = f"{platform.machine()}\n{self.stages()[0]}"
        return hashlib.sha256(f"{_digest(files, self.root)}\n{stage}".encode()).hexdigest()

    def content(self) -> str:
        """Changes with any input that the image is made from; hex."""
        files = [
            self.folder / "Dockerfile",
            self.folder / "package.json",
            self.lock,
            self._recipe,
            self.root / "uv.lock",
            *self.runtime_files(),
        ]
        return _digest(files, self.root)

    @property
    def _recipe(self) -> Path:
        return self.root / "src" / "hutch" / "images" / "recipe.py"


def inputs() -> Inputs:
    """Raises ``HostNotReady`` when Hutch does not run from a clone."""
    root = source_checkout()
    if root is None:
        raise HostNotReady(
            "The image is built from a clone of Hutch, and this is an installed package.",
            hint="Clone the repository and run `make up` there.",
        )
    return Inputs(root)


def _digest(files: list[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for path in files:
        body = path.read_bytes()
        digest.update(f"{path.relative_to(root)}\0{len(body)}\0".encode())
        digest.update(body)
    return digest.hexdigest()
