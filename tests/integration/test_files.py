"""Files in a real container: by the clients and by the command line, beside a hostile agent."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hutch.cli import main
from hutch.client import ApiError, Client
from tests.service import Service, User

# Somebody of the agents' user, who swaps a directory and a link to the home directory.
RACE = """
import os, time
os.chdir("/workspace")
os.mkdir("real")
os.symlink("/home/app", "link")
open("real/secret", "w").write("mine")
open("/home/app/secret", "w").write("SECRET")
print("racing", flush=True)
until = time.time() + 60
while time.time() < until and not os.path.exists("stop"):
    for source in ("real", "link"):
        os.rename(source, "d")
        os.rename("d", source)
"""


@pytest.fixture(scope="module")
def client(service: Service, user: User) -> Iterator[Client]:
    with Client(service.url, user.key) as client:
        yield client


def code(call: object, *args: object, **more: object) -> str:
    assert callable(call)
    with pytest.raises(ApiError) as refused:
        call(*args, **more)
    return refused.value.code


def test_there_and_back_with_the_agent_in_between(client: Client, user: User) -> None:
    content = os.urandom(3_000_000)
    written = client.upload("in/big", io.BytesIO(content))
    assert written.size == len(content)
    found = user.python(
        "import hashlib, json, os; f = '/workspace/in/big'; s = os.stat(f); print(json.dumps("
        "[hashlib.sha256(open(f, 'rb').read()).hexdigest(), s.st_uid, s.st_mode & 0o777]))"
    )
    assert found == [hashlib.sha256(content).hexdigest(), 1000, 0o644]
    user.python("import os; os.symlink('/home/app', '/workspace/out'); print('{}')")
    for act in (client.files, client.read_file, client.delete_file):
        assert code(act, "out/.claude") == "not_a_directory"
    assert code(client.write_file, "out/new", "x") == "not_a_directory"
    assert code(client.read_file, "out") == "not_a_file"
    assert code(client.files, "/home/app") == "invalid_path"
    assert code(client.write_file, "big", bytes(61 << 20)) == "file_too_large"
    got = io.BytesIO()
    client.download("in/big", got)
    assert got.getvalue() == content
    full = client.upload("full", io.BytesIO(bytes(45 << 20)))
    assert code(client.upload, "more", io.BytesIO(bytes(20 << 20))) == "no_space"
    assert full.size == 45 << 20
    client.delete_file("full")
    packed = io.BytesIO()
    client.download("", packed, archive=True)
    packed.seek(0)
    assert code(client.upload_archive, "copy", packed) == "invalid_archive"  # the link leads out
    client.delete_file("out")
    packed = io.BytesIO()
    client.download("in", packed, archive=True)
    packed.seek(0)
    assert client.upload_archive("copy", packed).bytes == len(content)
    client.hibernate()
    assert client.read_file("copy/big", first=5, size=3) == content[5:8]  # it is woken for that
    client.delete_file("copy", recursive=True)
    assert [one.name for one in client.files()] == ["in"]


def test_the_command_line(
    service: Service,
    user: User,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in (("URL", service.url), ("API_KEY", user.key), ("PROFILE", "")):
        monkeypatch.setenv(f"HUTCH_{name}", value)
    monkeypatch.chdir(tmp_path)

    def hutch(*arguments: str, given: bytes = b"", ends: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["hutch", "files", *arguments])
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capfd.readouterr()
        assert (ended.value.code or 0) == ends, said.err
        return said.out

    (tmp_path / "project/sub").mkdir(parents=True)
    (tmp_path / "project/sub/run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "project/sub/run.sh").chmod(0o755)
    (tmp_path / "project/link").symlink_to("sub/run.sh")
    assert json.loads(hutch("cp", "--json", "project", ":cli/"))["bytes"] == 10
    hutch("cp", "project/sub/run.sh", ":cli")  # a directory: into it
    hutch("cp", "-", ":cli/piped", given=b"by a pipe")
    assert "link -> sub/run.sh" in hutch("ls", "cli/project")
    assert [e["name"] for e in json.loads(hutch("ls", "--json", "cli"))] == [
        "piped",
        "project",
        "run.sh",
    ]
    assert hutch("cat", ":cli/piped") == "by a pipe"
    hutch("mv", "cli/piped", "cli/project/")
    hutch("cp", ":cli/project", "got")
    assert (tmp_path / "got/piped").read_text() == "by a pipe"
    assert (tmp_path / "got/sub/run.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "got/link").readlink() == Path("sub/run.sh")
    hutch("cp", ":cli/run.sh", "got/sub")
    hutch("rm", "cli", ends=5)
    hutch("rm", "-r", "cli")
    hutch("cat", "cli/run.sh", ends=3)
    hutch("cp", "project", "elsewhere", ends=2)


def test_a_race_with_a_hostile_agent(client: Client, user: User) -> None:
    client.get_or_create_container()
    argv = ["docker", "exec", "-u", "app", user.container(), "python3", "-c", RACE]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as racing:
        assert racing.stdout is not None
        assert racing.stdout.readline() == b"racing\n"
        patient = client.with_options(retry_for_s=0)
        told: set[object] = set()
        for at in range(60):
            for act in (
                lambda: patient.read_file("d/secret"),
                lambda: patient.write_file("d/secret", "mine"),
                lambda: patient.delete_file("d/secret") if at % 5 == 0 else None,  # noqa: B023
            ):
                try:
                    told.add(act())
                except ApiError as error:
                    told.add(error.code)
        client.write_file("stop", "")
    assert b"SECRET" not in told
    assert told & {b"mine", "not_a_directory"}, "there was a race"
    assert (
        user.python("print(__import__('json').dumps(open('/home/app/secret').read()))") == "SECRET"
    )


@pytest.mark.parametrize("provider", ["claude", "codex"])
def test_a_run_tells_what_it_changed(client: Client, provider: str) -> None:
    client.write_file("story.txt", "once\nupon\n")
    command = f"echo {provider} >> /workspace/story.txt; echo x > /workspace/new-{provider}"
    run = client.run(provider, f"[[tool:shell {command}]]", diff=True)
    assert run.state == "succeeded", run
    changes = client.changes(run.id)
    assert [(one.path, one.change) for one in changes.files] == [
        (f"new-{provider}", "added"),
        ("story.txt", "modified"),
    ]
    assert f"+{provider}\n" in changes.diff
    assert " upon\n" in changes.diff
    assert changes.complete
