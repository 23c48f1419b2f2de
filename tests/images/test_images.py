"""The image: made of what is pinned, with nothing that an agent could use against it."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from hutch.config import Settings, source_checkout
from hutch.errors import BackendError
from hutch.images import base
from hutch.images.build import LABEL_CONTENT, build
from hutch.images.engine import Context, build_context, engine
from hutch.images.fetch import drop_unused, one_at_a_time
from hutch.images.inputs import Inputs
from hutch.images.listing import list_images
from hutch_runtime.protocol import PROVIDERS

ROOT = source_checkout()
assert ROOT is not None
INPUTS = Inputs(ROOT)
RECIPE = "src/hutch/images/recipe.py"
TOOLS = ["image/package.json", "image/package-lock.json", RECIPE]


@pytest.fixture
def copy(tmp_path: Path) -> Inputs:
    shutil.copytree(INPUTS.folder, tmp_path / "image", ignore=shutil.ignore_patterns("build"))
    shutil.copytree(INPUTS.runtime, tmp_path / "src" / "hutch_runtime")
    (tmp_path / RECIPE).parent.mkdir(parents=True)
    shutil.copy(INPUTS.root / RECIPE, tmp_path / RECIPE)
    shutil.copy(INPUTS.root / "uv.lock", tmp_path)
    return Inputs(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        *TOOLS,
        "image/Dockerfile",
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


def test_the_tools_are_built_again_for_their_own_inputs_alone(copy: Inputs) -> None:
    before = copy.tools_content()
    for changed in ("uv.lock", "src/hutch_runtime/journal.py", "image/Dockerfile"):
        with (copy.root / changed).open("a") as file:
            file.write("\n# its last lines are the second half's\n")
    assert copy.tools_content() == before
    seen = {before}
    for changed in TOOLS:
        with (copy.root / changed).open("a") as file:
            file.write("\n")
        seen.add(copy.tools_content())
    dockerfile = copy.folder / "Dockerfile"
    dockerfile.write_text(dockerfile.read_text().replace("ripgrep", "ripgrep less"))
    seen.add(copy.tools_content())
    assert len(seen) == len(TOOLS) + 2


def test_the_halves_are_the_whole_dockerfile() -> None:
    whole = (INPUTS.folder / "Dockerfile").read_text()
    first, second = INPUTS.stages()
    assert "COPY clis" in first
    assert "COPY runtime" in second
    steps = [line for line in whole.splitlines() if not line.startswith(("FROM", "ARG"))]
    assert [
        line
        for line in (first + "\n" + second).splitlines()
        if not line.startswith(("FROM", "ARG"))
    ] == steps


def test_of_a_cli_for_two_libraries_the_images_own_stays(tmp_path: Path) -> None:
    """Debian 12's npm fetches both, and the Dockerfile's links want one."""
    for name in ("claude-code", "claude-code-linux-x64", "claude-code-linux-x64-musl"):
        (tmp_path / "node_modules" / "@anthropic-ai" / name).mkdir(parents=True)
    drop_unused(tmp_path)
    [left] = (tmp_path / "node_modules" / "@anthropic-ai").glob("claude-code-linux-*")
    assert left.name == "claude-code-linux-x64"


async def test_two_builds_of_a_clone_take_turns(tmp_path: Path) -> None:
    said: list[str] = []
    order: list[str] = []

    async def one(name: str, seconds: float) -> None:
        async with one_at_a_time(tmp_path / "build" / "x.lock", said.append):
            order.append(f"{name} begins")
            await asyncio.sleep(seconds)
            order.append(f"{name} ends")

    first = asyncio.create_task(one("a", 0.5))
    await asyncio.sleep(0.1)
    await asyncio.gather(first, one("b", 0))
    assert order == ["a begins", "a ends", "b begins", "b ends"]
    assert len(said) == 1


async def test_a_step_that_fails_is_told_with_what_it_said(tmp_path: Path) -> None:
    broken = "FROM scratch\nCOPY nowhere /x\n"
    async with engine(Settings()) as docker:
        with Context.open(tmp_path, broken) as context, pytest.raises(BackendError) as raised:
            await build_context(docker, context, tag="hutch-test-broken:latest")
    assert "could not be built" in raised.value.message
    assert "nowhere" in raised.value.message
    assert raised.value.hint


async def test_a_base_that_cannot_be_pulled_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PUBLIC", "127.0.0.1:9/nothing:here")
    inputs = Inputs(tmp_path)
    async with engine(Settings()) as docker:
        with pytest.raises(BackendError, match="cannot be pulled") as raised:
            await base.find_base(docker, "public", inputs, force=False, say=lambda _: None)
    assert "--base debian" in raised.value.hint


def test_the_lock_pins_with_hashes_and_names_no_registry() -> None:
    lock = json.loads(INPUTS.lock.read_text())
    packages = {name: p for name, p in lock["packages"].items() if name}
    assert [name for name, package in packages.items() if "integrity" not in package] == []
    assert [name for name, package in packages.items() if "resolved" in package] == []


async def test_the_image_says_what_is_in_it() -> None:
    settings = Settings()
    await build(settings, say=lambda _text: None)
    assert not (await build(settings, say=lambda _text: None)).fresh
    [image] = [i for i in await list_images(settings) if settings.image in i.tags]
    assert image.versions == INPUTS.versions()
    assert image.size_bytes < 1_250_000_000  # 1,183 MB, of which the CLIs 850


def in_image(runtime: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """As an agent is started; the image itself begins as root (docs/decisions/0021)."""
    return subprocess.run(
        [
            *("docker", "run", "--rm", f"--runtime={runtime}", "--network=none", "--read-only"),
            *("--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=app"),
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


def test_the_root_is_read_only_and_nothing_of_this_machine_is_in_it() -> None:
    assert in_image("runc", "touch", "/opt/hutch/x").returncode != 0
    assert in_image("runc", "sh", "-c", "touch /workspace/x ~/x /tmp/x").returncode == 0
    found = in_image("runc", "grep", "--recursive", "--files-with-matches", str(ROOT), "/opt/hutch")
    assert found.stdout == ""
    said = in_image("runc", "cat", "/opt/hutch/versions.json").stdout
    assert json.loads(said) == INPUTS.versions()


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
