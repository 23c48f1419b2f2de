"""At the runtime of one's own sandbox: who could become it could make up events, and read what its
user's sessions say to it.
"""

from __future__ import annotations

import ctypes
import errno
import http.client
import os
import signal
import socket

from hutch.walls.inside.calls import call, open_only

_PORT = 3000
_SEIZE = 0x4206


def _runtime() -> str:
    """The pid of the process that listens, as far as it can be told; process 1 else."""
    for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if b"python" in words[0] and b"hutch_runtime" in words:
                return pid
        except OSError:
            continue
    return "1"


def trace() -> str:
    call("ptrace", _SEIZE, int(_runtime()), 0, 0)
    return "traces the runtime"


def read_memory() -> str:
    return open_only(f"/proc/{_runtime()}/mem", os.O_RDWR)


def copy_memory() -> str:
    buffer = ctypes.create_string_buffer(8)
    local = ctypes.create_string_buffer(16)
    ctypes.memmove(local, (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8), 16)
    remote = ctypes.create_string_buffer(16)
    ctypes.memmove(remote, (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8), 16)
    call("process_vm_readv", int(_runtime()), local, 1, remote, 1, 0)
    return "read the runtime's memory"


def read_environment() -> str:
    with open(f"/proc/{_runtime()}/environ", "rb") as file:
        return f"read {len(file.read())} bytes of the runtime's environment"


def open_files() -> str:
    folder = f"/proc/{_runtime()}/fd"
    return f"sees {len(os.listdir(folder))} open files of the runtime"


def end() -> str:
    os.kill(int(_runtime()), 0)  # asks, and sends nothing
    return "may end the runtime"


def stop() -> str:
    for pid in (int(_runtime()), 1):
        os.kill(pid, signal.SIGCONT)  # harmless, and needs the same right as the others
    return "may stop the runtime"


def change_program() -> str:
    return open_only("/opt/hutch/runtime/hutch_runtime/__main__.py")


def ask() -> str:
    """Without its key, by each address that it has."""
    for host in ("127.0.0.1", socket.gethostbyname(socket.gethostname())):
        connection = http.client.HTTPConnection(host, _PORT, timeout=3)
        try:
            connection.request("POST", "/state/export")
            status = connection.getresponse().status
        except ConnectionError:  # at the one moment or another
            continue
        if status < 400:
            return f"the runtime answered with {status}"
    raise OSError(errno.EACCES, "it hangs up, or wants a key")


def take_port() -> str:
    """To answer in its place."""
    for reuse in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, reuse, 1)
        sock.bind(("127.0.0.1", _PORT))
        sock.listen()
    return "listens on the runtime's port"
