"""What a hostile home may hold when it is put away and taken out again, by the real path."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hutch.backends.base import RUNTIME_PORT
from hutch.client import ApiError
from hutch.sandboxes.models import ImageRef, Sandbox
from hutch.sandboxes.runtime_client import RuntimeClient, RuntimeRefused
from tests.security.conftest import Attempt, Hall
from tests.service import docker

# Everything that a tar knows and an unpacker stumbles over. What cannot be made is left out.
MAKE = r"""
import json, os, socket
made, refused = [], []
def attempt(name, make):
    try:
        make()
        made.append(name)
    except OSError as error:
        refused.append(f"{name}: {error.strerror}")
os.chdir("/workspace")
attempt("link to shadow", lambda: os.symlink("/etc/shadow", "shadow"))
attempt("link out", lambda: os.symlink("../../../../../etc", "out"))
attempt("link to itself", lambda: os.symlink("loop", "loop"))
attempt("link to the runtime", lambda: os.symlink("/proc/1/mem", "memory"))
attempt("hard link", lambda: (open("one", "w").write("one"), os.link("one", "two")))
attempt("hard link to the image", lambda: os.link("/etc/passwd", "passwd"))
attempt("fifo", lambda: os.mkfifo("fifo"))
attempt("socket", lambda: socket.socket(socket.AF_UNIX).bind("socket"))
attempt("device", lambda: os.mknod("disk", 0o600 | 0o060000, os.makedev(8, 0)))
attempt("sparse", lambda: os.truncate(os.open("sparse", os.O_RDWR | os.O_CREAT), 1 << 40))
attempt("newline", lambda: open("a\nb", "w").close())
attempt("option", lambda: open("--checkpoint-action=exec=id", "w").close())
attempt("not UTF-8", lambda: open(b"\xff\xfe", "w").close())
attempt("escape", lambda: open("\x1b[2J", "w").close())
attempt("closed", lambda: (os.mkdir("closed"), os.chmod("closed", 0)))
attempt("set-uid", lambda: (open("suid", "w").close(), os.chmod("suid", 0o4755)))
def deep():
    for _ in range(60):
        os.mkdir("d" * 60)
        os.chdir("d" * 60)
attempt("deep", deep)
os.chdir("/workspace")
attempt("many", lambda: (os.mkdir("many"), [open(f"many/{n}", "w").close() for n in range(5000)]))
os.chmod("/workspace/closed", 0o700)
print(json.dumps([made, refused]))
"""
LOOK = r"""
import json, os, stat
os.chdir("/workspace")
def link(name):
    return os.readlink(name) if os.path.islink(name) else None
print(json.dumps({
    "shadow": link("shadow"), "out": link("out"), "loop": link("loop"),
    "one": os.path.samefile("one", "two"), "many": len(os.listdir("many")),
    "sparse": os.stat("sparse").st_size, "blocks": os.stat("sparse").st_blocks,
    "disk": os.path.exists("disk") and stat.S_ISBLK(os.stat("disk").st_mode),
    "suid": bool(os.stat("suid").st_mode & 0o6000),
    "note": open("note").read(),
}))
"""


def test_a_hostile_home_is_put_away_and_comes_back(hall: Hall, attempt: Attempt) -> None:
    attempt.tries = "links, sparse files, odd names and many files through hibernation"
    user = hall.user("hoarder")
    made, refused = user.python(MAKE)
    assert {"link to shadow", "sparse", "many", "fifo"} <= set(made), refused
    user.python("open('/workspace/note', 'w').write('kept'); print('null')")
    holes = hall.isolation == "runc"  # gVisor does not tell a hole from zeros
    if not holes:
        with pytest.raises(ApiError, match="more than 200 MB"):  # and not more than that was read
            user.client.call("POST", "/v1/container/hibernate")
        user.client.get_or_create_container()  # it was frozen instead
        user.python("import os; os.truncate('/workspace/sparse', 1 << 20); print('null')")
    put_away = user.client.call("POST", "/v1/container/hibernate")
    assert put_away["observed"] == "hibernated", put_away
    assert put_away["snapshot"]["stored_bytes"] < 4 << 20  # a terabyte of nothing is nothing
    user.client.get_or_create_container()
    found = user.python(LOOK)
    assert found["note"] == "kept"
    assert (found["shadow"], found["loop"]) == ("/etc/shadow", "loop")
    assert (found["one"], found["many"]) == (True, 5000)
    assert found["sparse"] == (1 << 40 if holes else 1 << 20)
    assert found["blocks"] < 5000
    attempt.came = f"{len(made)} kinds came back as they were; nothing was followed"


RACE = r"""
import json, os, threading, time
os.makedirs("/workspace/race/inner", exist_ok=True)
open("/workspace/race/inner/file", "w").write("mine")
stop = time.monotonic() + 8
pid = os.fork()
if pid == 0:
    os.setsid()
    while time.monotonic() < stop:
        try:
            os.rename("/workspace/race/inner", "/workspace/race/away")
            os.symlink("/etc", "/workspace/race/inner")
            os.unlink("/workspace/race/inner")
            os.rename("/workspace/race/away", "/workspace/race/inner")
        except OSError:
            pass
    os._exit(0)
print("null")
"""


def test_a_directory_that_becomes_a_link_while_it_is_packed(hall: Hall, attempt: Attempt) -> None:
    attempt.tries = "swap a directory for a link to /etc while it is packed"
    user = hall.user("racer")
    user.python(RACE)
    user.client.call("POST", "/v1/container/hibernate")
    user.client.get_or_create_container()
    names = user.python(
        "import json, os; print(json.dumps([n for _, d, f in os.walk('/workspace') "
        "for n in (*d, *f)]))"
    )
    assert not {"passwd", "shadow", "hostname"} & set(names)
    attempt.came = "nothing of /etc was packed"


def member(name: str, **fields: Any) -> Callable[[tarfile.TarFile], None]:
    content = fields.pop("content", b"evil")

    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.mode = 0o777
        for field, value in fields.items():
            setattr(info, field, value)
        if info.type == tarfile.REGTYPE:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        else:
            archive.addfile(info)

    return add


HOSTILE = {
    "absolute": [member("/usr/local/bin/evil")],
    "climbing": [member("workspace/../../../usr/local/bin/evil")],
    "through a link": [
        member("workspace/l", type=tarfile.SYMTYPE, linkname="/usr/local/bin"),
        member("workspace/l/evil"),
    ],
    "hard link out": [member("workspace/evil", type=tarfile.LNKTYPE, linkname="/etc/shadow")],
    "device": [member("workspace/evil", type=tarfile.BLKTYPE, devmajor=8, devminor=0)],
    "set-uid root": [member("workspace/evil", mode=0o4755, uid=0, gid=0)],
    "over the runtime": [member("opt/hutch/runtime/evil.py")],
    "bomb": [member(f"workspace/{n}", content=bytes(16 << 20)) for n in range(6)],
    "many files": [member(f"workspace/{n}", content=b"") for n in range(20_000)],
}
CHECK = r"""
import json, os, stat
found = []
for path in ("/usr/local/bin/evil", "/opt/hutch/runtime/evil.py", "/etc/evil"):
    if os.path.lexists(path):
        found.append(path)
try:
    mode = os.lstat("/workspace/evil")
    if stat.S_ISREG(mode.st_mode) and mode.st_uid == 0:
        found.append("evil of root")
    if stat.S_ISBLK(mode.st_mode):  # gVisor lets anybody make one, and nobody open it
        os.close(os.open("/workspace/evil", os.O_RDONLY))
        found.append("a disk")
except OSError:
    pass
left = os.statvfs("/workspace")
print(json.dumps([found, (left.f_blocks * left.f_frsize) >> 20]))
"""


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_that_somebody_has_made_up(hall: Hall, kind: str, attempt: Attempt) -> None:
    """As if a snapshot had been packed by a runtime that was taken over."""
    attempt.tries = f"unpack an archive: {kind}"
    user = hall.user("unpacker")
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for add in HOSTILE[kind]:
            add(archive)
    attempt.came = asyncio.run(_unpack(hall, written.getvalue()))
    found, megabytes = user.python(CHECK)
    assert found == []
    assert megabytes <= 61
    assert user.client.container()["observed"] == "running"
    user.python(
        "import shutil, os; [shutil.rmtree(p) if os.path.isdir(p) and not os.path.islink(p) else "
        "os.unlink(p) for p in (f'/workspace/{n}' for n in os.listdir('/workspace'))]; print(0)"
    )


async def _unpack(hall: Hall, content: bytes) -> str:
    runtime = RuntimeClient(hall.service.settings.secret)

    async def pieces() -> Any:
        for start in range(0, len(content), 1 << 16):
            yield content[start : start + (1 << 16)]

    try:
        await runtime.unpack(_sandbox(hall), pieces())
    except RuntimeRefused as refused:
        return f"refused: {refused.message}".replace("\n", " ")
    finally:
        await runtime.close()
    return "unpacked, and nothing got out"


def _sandbox(hall: Hall) -> Sandbox:
    """As the orchestrator knows it."""
    user = hall.user("unpacker")
    told = user.client.container()
    where = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    address = docker("inspect", "--format", where, user.container()).strip()
    made = Sandbox.begin(ImageRef("image", None), user_id=user.id, desired="running", at=0)
    return replace(made, incarnation=told["incarnation"], address=address, port=RUNTIME_PORT)
