"""System calls that Python has no function for, by their numbers."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final

# On x86_64 and on aarch64.
_NUMBERS: Final = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "capset": (126, 91),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "socket": (41, 198),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_MACHINES: Final = ("x86_64", "aarch64")

Argument = int | bytes | ctypes.Array[ctypes.c_char] | None


def call(name: str, *arguments: Argument) -> int:
    """Raises ``OSError`` with what the kernel said, ``LookupError`` on an unknown machine."""
    number = _NUMBERS[name][_MACHINES.index(platform.machine())]
    libc = ctypes.CDLL(None, use_errno=True)
    given = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *given))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def open_only(path: str, flags: int = os.O_WRONLY) -> str:
    """Without a byte read or written."""
    os.close(os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))
    return f"opened {path}"


def first_open(paths: list[str], flags: int = os.O_WRONLY) -> str:
    """The first that can be opened; else what was said of the last one that is there."""
    refused: OSError | None = None
    for path in paths:
        try:
            return open_only(path, flags)
        except OSError as error:
            if refused is None or error.errno != 2:
                refused = error
    if refused is None:
        raise FileNotFoundError(2, "none of them is there")
    raise refused
