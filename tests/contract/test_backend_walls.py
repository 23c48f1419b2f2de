"""The walls of a Docker sandbox, tried from inside."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hutch.backends.base import Observed
from hutch.backends.docker import DockerBackend
from hutch.config import Settings
from hutch.errors import BackendError, ImageMissing
from tests.contract.conftest import IMAGE, Bench, docker
from tests.contract.waiting import eventually

FILL = """
import errno, os, sys
total = 0
with open(sys.argv[1] + "/full", "wb", buffering=0) as file:
    try:
        while True:
            total += file.write(b"x" * 65536)
    except OSError as error:
        print(errno.errorcode[error.errno], total >> 20)
"""
FORK = """
import os, time
n = 0
try:
    while n < 500:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        n += 1
except OSError as error:
    print(error.errno, n)
"""
# What programs take for granted, and a filter of system calls may have forgotten.
TOOLS = """
import asyncio, ctypes, fcntl, mmap, multiprocessing, os, pty, resource, signal, socket
import sqlite3, subprocess, threading
os.chdir("/workspace")
def ran(*argv):
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
worker = threading.Thread(target=print, args=("a thread",)); worker.start(); worker.join()
with multiprocessing.Pool(2) as pool: print(sum(pool.map(abs, [-1, -2])))
pid, terminal = pty.fork()
if not pid: os.execlp("sh", "sh", "-c", "tty; stty size")
print(os.read(terminal, 20)[:8]); os.waitpid(pid, 0)
os.mkfifo("fifo"); os.link("fifo", "fifo2")
with sqlite3.connect("db") as db:
    db.execute("pragma journal_mode=wal"); db.execute("create table x (y)")
with open("db", "rb") as file:
    fcntl.flock(file, fcntl.LOCK_SH); mmap.mmap(file.fileno(), 0, prot=1).close()
async def wait(): return await asyncio.create_subprocess_exec("true", pass_fds=())
asyncio.run(wait())
a, b = socket.socketpair(); socket.socket(socket.AF_INET6).close(); socket.if_nameindex()
os.memfd_create("x"); os.eventfd(0)
os.nice(1); resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99)); os.sched_getaffinity(0)
libc = ctypes.CDLL(None, use_errno=True)
child = os.fork()
if not child:
    libc.ptrace(0, 0, 0, 0); os.kill(os.getpid(), signal.SIGSTOP); os._exit(0)
os.waitpid(child, os.WUNTRACED); assert libc.ptrace(7, child, 0, 0) == 0; os.waitpid(child, 0)
ran("git", "init", "-q", "x"); ran("git", "-C", "x", "-c", "user.name=x", "-c", "user.email=x@x",
    "commit", "-q", "--allow-empty", "-m", "x"); ran("git", "-C", "x", "gc", "-q")
ran("tar", "czf", "x.tgz", "x"); ran("cp", "-a", "x", "z"); ran("curl", "--version")
ran("node", "-e", "new (require('worker_threads').Worker)('1', {eval: true}); "
    "os.networkInterfaces(); fs.watch('.').close(); fs.promises.readdir('.'); "
    "child_process.execFileSync('true')")
print("all of it")
"""
REACH = """
import socket, sys
s = socket.socket()
s.settimeout(2)
try:
    s.connect((sys.argv[1], int(sys.argv[2])))
    print("reached")
except OSError as error:
    print("no")
"""


async def running(bench: Bench, command: str = "exec sleep 600", **resources: float) -> Observed:
    made = await bench.backend.create(bench.spec(command, **resources))
    return await bench.backend.start(made.handle)


async def inside(sandbox: Observed, *argv: str) -> str:
    return (await asyncio.to_thread(docker, "exec", sandbox.handle, *argv)).strip()


async def test_an_ordinary_user_with_no_privileges(engine: Bench) -> None:
    sandbox = await running(engine)
    assert await inside(sandbox, "id", "-u") == "1000"
    assert await inside(sandbox, "id", "-G") == "1000"
    status = dict(
        line.split(":\t", 1)
        for line in (await inside(sandbox, "cat", "/proc/1/status")).splitlines()
        if ":\t" in line
    )
    for kind in ("CapInh", "CapPrm", "CapEff"):  # what root may begin with: test_two_users
        assert int(status[kind], 16) == 0, kind
    if engine.kind == "docker-runc":  # gVisor holds both to be so, but does not print them
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"


async def test_what_programs_need_is_there(engine: Bench) -> None:
    sandbox = await running(engine)
    said = await inside(sandbox, "python3", "-W", "ignore", "-c", TOOLS)
    assert said.endswith("all of it"), said


async def test_only_the_three_directories_can_be_written(engine: Bench) -> None:
    sandbox = await running(engine)
    for path in ("/x", "/etc/x", "/usr/bin/x", "/var/x"):
        # As root: that the agent's user may not write there anyhow is not the wall meant here.
        said = await asyncio.to_thread(docker, "exec", "-u", "0", sandbox.handle, "touch", path)
        assert "Read-only file system" in said, said
    for path in ("/workspace/x", "/home/app/x", "/tmp/x"):  # noqa: S108  (inside)
        assert await inside(sandbox, "touch", path) == ""
    assert await inside(sandbox, "stat", "-c", "%a %u %g", "/workspace") == "700 1000 1000"
    script = "printf '#!/bin/sh\\necho ran' > /workspace/p; chmod +x /workspace/p; /workspace/p"
    assert await inside(sandbox, "sh", "-c", script) == "ran"


async def test_the_disk_ends_where_it_should(engine: Bench) -> None:
    sandbox = await running(engine, workspace_mb=20, home_mb=10, tmp_mb=15)
    for path, size in (("/workspace", 20), ("/home/app", 10), ("/tmp", 15)):  # noqa: S108  (inside)
        code, written = (await inside(sandbox, "python3", "-c", FILL, path)).split()
        assert code == "ENOSPC"
        assert abs(int(written) - size) <= 1


async def test_no_way_to_a_neighbour_nor_out(engine: Bench) -> None:
    serve = "exec python3 -m http.server 3000"
    first, second = await running(engine, serve), await running(engine, serve)
    gateway = await engine.backend.prepare()
    assert first.address
    assert second.address
    await eventually(lambda: asyncio.to_thread(_answers, second))
    assert await inside(second, "python3", "-c", REACH, "127.0.0.1", "3000") == "reached"
    beyond = (
        (second.address, "3000"),
        ("1.1.1.1", "443"),
        ("8.8.8.8", "53"),
        ("169.254.169.254", "80"),
    )
    said = await asyncio.gather(*(inside(first, "python3", "-c", REACH, *one) for one in beyond))
    assert said == ["no"] * len(beyond)
    place = (gateway, engine.settings.gateway_port)
    with socket.create_server(place) as listener:  # the one way: the host's end
        assert await inside(first, "python3", "-c", REACH, *map(str, place)) == "reached"
        listener.settimeout(5)
        connection, (source, _) = await asyncio.to_thread(listener.accept)
        connection.close()
    assert source == first.address


async def test_a_frozen_one_goes_at_once(engine: Bench) -> None:
    sandbox = await running(engine)
    await engine.backend.freeze(sandbox.handle)
    began = time.monotonic()
    await engine.backend.destroy(sandbox.handle)
    assert time.monotonic() - began < 4  # it is 10 s where the engine kills it frozen


async def test_names_are_not_resolved(engine: Bench) -> None:
    sandbox = await running(engine)
    began = time.monotonic()
    said = await inside(sandbox, "getent", "hosts", "example.org")
    assert said.startswith("ERROR")
    assert time.monotonic() - began < 10


async def test_the_environment_is_what_was_given(engine: Bench) -> None:
    sandbox = await running(engine)
    names = {line.partition("=")[0] for line in (await inside(sandbox, "env")).splitlines()}
    assert names - {"HOME", "PATH", "HOSTNAME"} <= image_environment() | {"HUTCH_TEST_COMMAND"}


async def test_too_much_memory_ends_it_and_it_is_told(engine: Bench) -> None:
    events = engine.backend.watch()
    sandbox = await running(
        engine,
        # Not before it has its place in the firewall, which is its start's last act.
        "while [ ! -e /dev/shm/go ]; do sleep 0.05; done;"
        "exec python3 -c 'x = bytearray(b\"x\") * (400 << 20); input()'",
        memory_soft_mb=128,
        memory_hard_mb=128,
    )
    await inside(sandbox, "touch", "/dev/shm/go")  # noqa: S108  inside
    kinds = set()
    async with asyncio.timeout(30):
        async for event in events:
            kinds.add(event.kind)
            if kinds >= {"oom", "exited"}:
                break
    await events.aclose()  # type: ignore[attr-defined]
    ended = await engine.backend.inspect(sandbox.handle)
    assert ended is not None
    assert ended.oom_killed
    assert ended.exit_code != 0


async def test_the_limit_of_processes(engine: Bench) -> None:
    sandbox = await running(engine, pids=64)
    if engine.kind == "docker-gvisor":  # at its limit gVisor ends the whole sandbox
        limit = json.loads(docker("inspect", sandbox.handle))[0]["HostConfig"]["PidsLimit"]
        assert limit == 64
        return
    errno, forked = (await inside(sandbox, "python3", "-c", FORK)).split()
    assert errno == "11"
    assert 40 < int(forked) < 64


async def test_cpu_and_swap_are_bounded(engine: Bench) -> None:
    sandbox = await running(engine, cpu_share=0.5, cpu_ceiling=1.0)
    host = json.loads(docker("inspect", sandbox.handle))[0]["HostConfig"]
    assert (host["CpuShares"], host["NanoCpus"]) == (512, 10**9)
    assert host["Memory"] == host["MemorySwap"] == 1024 << 20
    assert host["MemoryReservation"] == 512 << 20
    assert host["Runtime"] == ("runsc" if engine.kind == "docker-gvisor" else "runc")
    # Two busy processes for two seconds get no more than the ceiling between them.
    busy = "timeout 2 sh -c 'while :; do :; done'"
    before = (await engine.backend.stats(sandbox.handle)).cpu_seconds
    began = time.monotonic()
    await inside(sandbox, "sh", "-c", f"{busy} & {busy} & wait")
    used = (await engine.backend.stats(sandbox.handle)).cpu_seconds - before
    assert used / (time.monotonic() - began) < 1.15


async def test_what_it_prints_does_not_fill_the_disk(engine: Bench) -> None:
    sandbox = await running(engine, "yes 0123456789012345678901234567890123456789 | head -c 8M")

    async def ended() -> bool:
        now = await engine.backend.inspect(sandbox.handle)
        return now is not None and now.state == "exited"

    await eventually(ended, within_s=40)
    assert len(docker("logs", sandbox.handle)) < 3 << 20


async def test_prepare_races_with_another_process(engine: Bench) -> None:
    await engine.backend.cleanup()
    others = [engine.again() for _ in range(4)]
    try:
        addresses = await asyncio.gather(*(other.prepare() for other in others))
        assert len(set(addresses)) == 1
        name = f"hutch-{engine.settings.instance}"
        assert docker("network", "ls", "-q", "--filter", f"name={name}").count("\n") == 1
    finally:
        for other in others:
            await other.close()


async def test_a_missing_image_is_told(engine: Bench) -> None:
    spec = replace(engine.spec(), image="hutch-test-missing:none")
    with pytest.raises(ImageMissing, match="hutch-test-missing"):
        await engine.backend.create(spec)


async def test_an_open_network_of_the_same_name_is_refused(image: str, tmp_path: Path) -> None:
    assert image
    settings = Settings(data_dir=tmp_path)
    name = f"hutch-{settings.instance}"
    docker("network", "create", name)
    backend = DockerBackend(settings)
    try:
        with pytest.raises(BackendError, match="not the closed one"):
            await backend.prepare()
    finally:
        await backend.close()
        docker("network", "rm", name)


async def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, docker_host=f"unix://{tmp_path}/nobody.sock")
    backend = DockerBackend(settings)
    with pytest.raises(BackendError, match="does not answer"):
        await backend.capabilities()
    with pytest.raises(BackendError, match=r"broke off|does not answer"):
        await anext(backend.watch())
    await backend.close()


def image_environment() -> set[str]:
    environment = json.loads(docker("inspect", IMAGE))[0]["Config"]["Env"]
    return {item.partition("=")[0] for item in environment or []}


def _answers(sandbox: Observed) -> bool:
    try:
        socket.create_connection((sandbox.address, sandbox.port), timeout=1).close()
    except OSError:
        return False
    return True
