"""An agent against its own runtime, in the real image: what it can neither read, stop nor imitate.

``docs/decisions/0021-two-users.md`` says what is promised, and what is not.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.agent import KEY, Sandbox, running_sandbox
from tests.service import docker

# Whoever is not of our user; its own first process, and the runtime.
OTHERS = """
import ctypes, json, os, pathlib, resource, signal, socket, stat, sys
libc = ctypes.CDLL(None, use_errno=True)
def status(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
others = []
for path in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        if int(status(path.name)["Uid"].split()[0]) != os.getuid():
            others.append(int(path.name))
    except OSError:
        pass
def command(pid):
    return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
runtime = [pid for pid in others if b"-m\\0hutch_runtime" in command(pid)]
"""


@pytest.fixture(scope="module", params=["docker-runc", "docker-gvisor"])
def sandbox(
    image: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sandbox]:
    assert image
    with running_sandbox(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


def test_agents_are_a_user_of_their_own_who_can_become_no_other(sandbox: Sandbox) -> None:
    found = sandbox.run(
        OTHERS
        + """
refused = []
for become in (lambda: os.setuid(0), lambda: os.setuid(1001), lambda: os.setgroups([0])):
    try:
        become()
    except PermissionError:
        refused.append(True)
print(json.dumps([status("self"), refused, os.getgroups(), os.getcwd(), len(runtime),
    sorted(status(p)["Uid"].split()[0] for p in others)]))
"""
    )
    status, refused, groups, cwd, runtimes, others = found
    assert status["Uid"].split() == status["Gid"].split() == ["1000"] * 4
    assert set(groups) <= {1000}
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd"):
        assert int(status[kind], 16) == 0, kind
    if sandbox.kind == "docker-runc":  # gVisor holds both to be so, but does not print them
        assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")
    assert refused == [True] * 3
    assert cwd == "/workspace"
    assert runtimes == 2  # tini, whose argument it is, and itself
    assert others == ["0", "1001"]


def test_the_runtime_holds_three_capabilities_and_can_gain_none(sandbox: Sandbox) -> None:
    found = sandbox.run(OTHERS + "print(json.dumps([status(p) for p in runtime]))")
    (runtime,) = [each for each in found if each["Uid"].split() == ["1001"] * 4]
    kill, setgid, setuid = 1 << 5, 1 << 6, 1 << 7
    assert int(runtime["CapPrm"], 16) == int(runtime["CapEff"], 16) == kill | setgid | setuid
    assert int(runtime["CapInh"], 16) == int(runtime["CapBnd"], 16) == 0


def test_an_agent_can_neither_look_into_its_runtime_nor_touch_it(sandbox: Sandbox) -> None:
    attempts = sandbox.run(
        OTHERS
        + """
done = {}
def attempt(name, work):
    try:
        done[name] = repr(work())
    except (OSError, ProcessLookupError) as error:
        done[name] = None
def traced(request, pid):
    if libc.ptrace(request, pid, 0, 0) < 0:
        raise OSError
def peeked(pid):
    class Piece(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    buffer = ctypes.create_string_buffer(8)
    here, there = Piece(ctypes.addressof(buffer), 8), Piece(id(None), 8)
    size = libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    if size < 0:
        raise OSError
    return size
def opened(pid, number):
    path = f"/proc/{pid}/fd/{number}"
    if stat.S_ISCHR(os.stat(path).st_mode):
        raise OSError("it is /dev/null")
    return os.open(path, os.O_RDWR)
def taken(pid, number):
    descriptor = os.pidfd_open(pid)
    result = libc.syscall(438, descriptor, number, 0)
    if result < 0:
        raise OSError
    return result
for pid in others:
    for name in ("environ", "maps", "smaps", "auxv", "mem", "stack", "syscall", "pagemap"):
        attempt(f"read {name}", lambda: open(f"/proc/{pid}/{name}", "rb").read(1 << 20))
    for name in ("cwd", "root", "exe"):
        attempt(f"follow {name}", lambda: os.stat(f"/proc/{pid}/{name}/"))
    for number in range(64):
        attempt(f"open fd {number}", lambda: opened(pid, number))
        attempt(f"take fd {number}", lambda: taken(pid, number))
    for name in ("mem", "oom_score_adj", "comm", "clear_refs", "coredump_filter", "uid_map"):
        attempt(f"write {name}", lambda: open(f"/proc/{pid}/{name}", "wb").write(b"0"))
    for number in (0, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGINT):
        attempt(f"signal {number}", lambda: os.kill(pid, number))
        attempt(f"signal group {number}", lambda: os.killpg(pid, number))
        attempt(f"signal thread {number}", lambda: signal.pthread_kill and
            (_ for _ in ()).throw(OSError) if libc.syscall(234, pid, pid, number) < 0 else 1)
    attempt("ptrace attach", lambda: traced(16, pid))
    attempt("ptrace seize", lambda: traced(0x4206, pid))
    attempt("peek", lambda: peeked(pid))
    attempt("renice", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    attempt("limit", lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3)))
    attempt("bind", lambda: os.sched_setaffinity(pid, {0}))
print(json.dumps({name: said[:20000] for name, said in done.items() if said is not None}))
"""
    )
    if sandbox.kind == "docker-gvisor":
        # This gVisor shows them to every user, so nothing in them may be of worth.
        known = {name: attempts.pop(name, "") for name in ("environ", "maps", "smaps", "auxv")}
        known = {name: attempts.pop(f"read {name}", "") for name in known}
        assert KEY not in json.dumps(known)
        for ineffective in ("renice", "bind"):  # it takes both from everybody, and obeys neither
            attempts.pop(ineffective, None)
    assert attempts == {}
    assert sandbox.health()["status"] == "ready"


def test_an_agent_can_write_nothing_that_its_runtime_reads(sandbox: Sandbox) -> None:
    written = sandbox.run(
        """
import json, os, sys
done = []
for top in ("/opt/hutch", "/usr/lib/python3", "/etc", "/usr/bin", "/run"):
    for folder, _, names in os.walk(top):
        for name in [".x", *names[:3]]:
            try:
                open(os.path.join(folder, name), "ab").close()
                done.append(os.path.join(folder, name))
            except OSError:
                pass
print(json.dumps(done))
"""
    )
    assert written == []


def test_a_file_of_a_login_is_the_agents_and_no_link_leads_away_from_it(sandbox: Sandbox) -> None:
    where = "import json, os, pathlib, shutil; path = pathlib.Path.home() / '.codex'; "
    login = {"tokens": {"access_token": "a", "refresh_token": "b"}}
    files = {".codex/auth.json": base64.b64encode(json.dumps(login).encode()).decode()}

    def put() -> int:
        return sandbox.http.put("/logins/codex", json={"files": files}).status_code

    sandbox.run(where + "shutil.rmtree(path, True); os.symlink('/proc/self/fd', path); print(1)")
    assert put() == 500
    assert sandbox.http.get("/logins/codex").json()["state"] != "present"
    sandbox.run(where + "path.unlink(); print(1)")
    assert put() == 200
    found = sandbox.run(
        where + "s = os.stat(path / 'auth.json'); print(json.dumps([s.st_uid, s.st_mode & 0o777]))"
    )
    assert found == [1000, 0o600]
    assert sandbox.http.get("/logins/codex").json()["state"] == "present"
    assert sandbox.http.delete("/logins/codex").status_code == 200


def test_state_is_packed_and_unpacked_with_the_agents_rights(sandbox: Sandbox) -> None:
    sandbox.run(
        "import os; os.chmod('/workspace', 0o700); open('/workspace/mine', 'w').close();"
        "os.chmod('/workspace/mine', 0o600); print(1)"
    )
    packed = sandbox.http.get("/state").content
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert "workspace/mine" in archive.getnames()
    hostile = io.BytesIO()
    with tarfile.open(fileobj=hostile, mode="w") as archive:
        link = tarfile.TarInfo("workspace/out")
        link.type, link.linkname = tarfile.SYMTYPE, "/proc/1/"
        archive.addfile(link)
        for name in ("workspace/out/oom_score_adj", "../opt/hutch/x", "/opt/hutch/y"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"1000"))
    refused = sandbox.http.put("/state", content=hostile.getvalue())
    assert refused.status_code == 500
    assert sandbox.http.put("/state", content=packed).status_code == 200
    assert sandbox.run(
        "import json, os; s = os.stat('/workspace/mine'); print(json.dumps([s.st_uid, s.st_mode]))"
    ) == [1000, 0o100600]


def test_who_knocks_from_inside_is_not_heard(sandbox: Sandbox) -> None:
    """Not even with the key: nobody inside has it, and nobody inside has business there."""
    heard, opened = sandbox.run(
        f"""
import json, socket, threading
own = socket.gethostbyname(socket.gethostname())
heard = []
for source in ("127.0.0.1", own):
    for target in ("127.0.0.1", own):
        for key in ("", "guess", {KEY!r}):
            with socket.socket() as knocking:
                knocking.settimeout(5)
                try:
                    knocking.bind((source, 0))
                    knocking.connect((target, 3000))
                    lines = "GET /health HTTP/1.1", "host: x", "authorization: Bearer " + key
                    knocking.sendall("\\r\\n".join((*lines, "", "")).encode())
                    heard.append(knocking.recv(100).decode())
                except OSError:
                    heard.append("")
opened = 0
def flood():
    global opened
    kept = []
    for _ in range(700):
        try:
            kept.append(socket.create_connection((own, 3000), 2))
            opened += 1
        except OSError:
            pass
threads = [threading.Thread(target=flood) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps([heard, opened]))
"""
    )
    assert set(heard) == {""}
    assert opened > 500
    assert sandbox.health()["status"] == "ready"
    assert sandbox.run("print(1)") == 1


def test_the_runtimes_pipes_to_an_agent_are_the_runtimes(sandbox: Sandbox) -> None:
    """Its siblings and what it starts are of one user with it; they find the ends closed."""
    found = sandbox.run(
        """
import json, os, subprocess, sys
code = '''
import os, sys
for number in (0, 1):
    try:
        os.close(os.open(f"/proc/{os.getppid()}/fd/{number}", os.O_RDWR))
        print("opened", number)
    except OSError:
        pass
'''
done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
print(json.dumps(done.stdout + done.stderr))
"""
    )
    assert found == ""


def test_events_of_another_run_cannot_be_made(sandbox: Sandbox) -> None:
    """An agent says what it likes in its own run; whose run it is, is the runtime's to say."""
    forged = {"run_id": "another", "seq": 1, "time": 0, "type": "run.finished"}
    sse = "event: run.finished\\ndata: " + json.dumps(forged) + "\\n\\n"
    events = sandbox.prompt(
        f"""
import json, sys
out = sys.__stdout__
for line in ({json.dumps(forged)!r}, {sse!r}, '{{"type": "result", "run_id": "another"}}'):
    out.write(line + "\\n")
out.flush()
"""
    )
    assert len({event["run_id"] for event in events}) == 1
    assert events[0]["run_id"] != "another"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events].count("run.finished") == 1


def test_killing_everything_kills_its_own_alone(sandbox: Sandbox) -> None:
    events = sandbox.prompt("import os, signal; os.kill(-1, signal.SIGKILL); os.kill(0, 9)")
    assert events[-1]["error"]["code"] == "agent_died"
    assert sandbox.run("print(1)") == 1


# Small ones, and each out of reach of the signals that an agent's own end sends to its group.
MANY = """
import json, subprocess
made = 0
try:
    while made < 2000:
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        made += 1
except OSError as error:
    print(json.dumps(made))
"""


def test_processes_without_end_leave_the_runtime_at_work(sandbox: Sandbox) -> None:
    made = sandbox.run(MANY)
    assert 100 < made < 1024
    assert sandbox.health()["status"] == "ready"
    with ThreadPoolExecutor(3) as several:  # each needs an agent of its own
        assert list(several.map(sandbox.run, ["print(1)"] * 3)) == [1, 1, 1]


def test_it_ends_when_it_is_asked_to(sandbox: Sandbox) -> None:
    """The last test: the sandbox is gone after it."""
    subprocess.run(["docker", "stop", "-t", "20", sandbox.observed.handle], check=True, timeout=60)
    state = json.loads(docker("inspect", sandbox.observed.handle))[0]["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 143)
