"""The image: made of what is pinned, with nothing that an agent could use against it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from hutch.config import Settings, source_checkout
from hutch.images.build import LABEL_CONTENT, build
from hutch.images.inputs import Inputs
from hutch.images.listing import list_images
from hutch_runtime.protocol import PROVIDERS

ROOT = source_checkout()
assert ROOT is not None
INPUTS = Inputs(ROOT)


@pytest.fixture
def copy(tmp_path: Path) -> Inputs:
    shutil.copytree(INPUTS.folder, tmp_path / "image", ignore=shutil.ignore_patterns("build"))
    shutil.copytree(INPUTS.runtime, tmp_path / "src" / "hutch_runtime")
    shutil.copy(INPUTS.root / "uv.lock", tmp_path)
    return Inputs(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        "image/Dockerfile",
        "image/package.json",
        "image/package-lock.json",
        "uv.lock",
        "src/hutch_runtime/journal.py",
        "src/hutch_runtime/providers/new.py",
    ],
)
def test_any_input_changes_the_content(copy: Inputs, changed: str) -> None:
    before = copy.content()
    assert before == INPUTS.content()
    with (copy.root / changed).open("a") as file:
        file.write("\n")
    assert copy.content() != before


def test_what_is_no_input_does_not(copy: Inputs) -> None:
    before = copy.content()
    (copy.runtime / "__pycache__").mkdir(exist_ok=True)
    (copy.runtime / "__pycache__" / "x.pyc").write_text("x")
    (copy.root / "README.md").write_text("x")
    assert copy.content() == before


def test_the_lock_pins_with_hashes_and_names_no_registry() -> None:
    lock = json.loads(INPUTS.lock.read_text())
    packages = {name: p for name, p in lock["packages"].items() if name}
    assert [name for name, package in packages.items() if "integrity" not in package] == []
    assert [name for name, package in packages.items() if "resolved" in package] == []


async def test_the_image_says_what_is_in_it() -> None:
    settings = Settings()
    assert not (await build(settings, say=lambda _text: None)).fresh
    [image] = [i for i in await list_images(settings) if settings.image in i.tags]
    assert image.versions == INPUTS.versions()
    assert image.size_bytes < 1_400_000_000


def in_image(runtime: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *("docker", "run", "--rm", f"--runtime={runtime}", "--network=none", "--read-only"),
            *("--cap-drop=ALL", "--security-opt=no-new-privileges"),
            *("--tmpfs=/workspace:size=60m,uid=1000", "--tmpfs=/home/app:size=40m,uid=1000"),
            *("--tmpfs=/tmp", "--entrypoint", argv[0], Settings().image, *argv[1:]),
        ],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize("runtime", ["runc", "runsc"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_each_cli_starts_as_app_on_a_read_only_root(provider: str, runtime: str) -> None:
    done = in_image(runtime, provider, "--version")
    assert done.returncode == 0, done.stderr
    assert INPUTS.versions()[provider] in done.stdout


def test_nothing_in_it_gains_rights() -> None:
    assert in_image("runc", "find", "/", "-xdev", "-perm", "/6000", "-type", "f").stdout == ""
    assert in_image("runc", "id", "-u").stdout == "1000\n"
    assert in_image("runc", "which", "sudo").returncode == 1


def test_the_runtime_and_its_tools_are_there() -> None:
    done = in_image("runc", "python3", "-c", "import hutch_runtime.server, uvicorn, starlette")
    assert done.returncode == 0, done.stderr
    for tool in ("git", "curl", "bash", "tini", "rg", "node", "python3"):
        assert in_image("runc", "which", tool).returncode == 0, tool
    major = in_image("runc", "node", "-p", "process.versions.node").stdout.split(".")[0]
    assert int(major) >= 20


def test_the_label_is_the_content() -> None:
    inspected = subprocess.run(
        ["docker", "image", "inspect", Settings().image, "--format", "{{json .Config.Labels}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(inspected.stdout)[LABEL_CONTENT] == INPUTS.content()
