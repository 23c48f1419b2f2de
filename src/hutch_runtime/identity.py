"""Whom the kernel takes the runtime for, and whom the agents.

In a sandbox these are two users, so that no agent can read, stop or trace the runtime. The
container starts as root with four capabilities. Before it reads anything from outside, the runtime
becomes a user of its own for good and keeps the three by which it starts programs as the agents'
user and ends them; none of them can be handed on.

Nothing that belongs to the user is touched with the runtime's rights: a program is started by
``Identity.launch``, a file opened within ``Identity.acting`` (for which there is
``hutch_runtime.home``). Elsewhere, in tests and under the process backend, all is one user.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pwd
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# linux/prctl.h, linux/capability.h
_PR_SET_DUMPABLE: Final = 4
_PR_SET_KEEPCAPS: Final = 8
_PR_CAPBSET_DROP: Final = 24
_CAPABILITY_VERSION_3: Final = 0x20080522
_CAP_KILL: Final = 5
_CAP_SETGID: Final = 6
_CAP_SETUID: Final = 7
_CAP_MAX: Final = 63
_KEPT: Final = 1 << _CAP_KILL | 1 << _CAP_SETGID | 1 << _CAP_SETUID

# setresuid and setresgid as system calls: libc's functions change every thread of the process.
_SYSTEM_CALLS: Final = {"x86_64": (117, 119), "aarch64": (147, 149)}
_UNCHANGED: Final = -1


@dataclass(frozen=True, slots=True)
class Account:
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Identity:
    """The agents' user; without accounts it is the runtime's own."""

    runtime: Account | None = None
    agents: Account | None = None

    @property
    def separate(self) -> bool:
        return self.agents is not None

    def launch(
        self, argv: Sequence[str], *, cwd: Path | None = None
    ) -> tuple[list[str], dict[str, Any]]:
        """What to give ``subprocess.Popen``, or asyncio's functions like it, to start ``argv`` as
        the agents' user: arguments, and keywords to pass on. ``cwd`` None is the runtime's own.
        """
        if self.agents is None:
            return list(argv), {"cwd": cwd}
        options = {"user": self.agents.uid, "group": self.agents.gid, "extra_groups": ()}
        # Popen enters ``cwd`` before it changes the user, and the runtime may not enter it.
        enter = [] if cwd is None else ["/usr/bin/env", f"--chdir={cwd}"]
        return [*enter, *argv], options

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """Inside, this thread opens files with the agents' rights and no others. Nothing in it may
        wait for another task or start a thread, which would have them too.
        """
        if self.runtime is None or self.agents is None:
            yield
            return
        _become(self.agents)
        try:
            yield
        finally:
            _become(self.runtime)

    def end_all(self) -> bool:
        """SIGKILL to every process of the agents' user at once, whatever group it is in. False, and
        nothing done, where that is the runtime's own user.
        """
        if self.agents is None:
            return False
        with self.acting():
            # By the right of that user alone: with the capability it would be every process.
            _set_capabilities(_KEPT & ~(1 << _CAP_KILL), permitted=_KEPT)
            try:
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                pass
            finally:
                _set_capabilities(_KEPT)
        return True


def separate(runtime: str, agents: str) -> Identity:
    """Become the user named ``runtime``, for good. Call it as root, before any thread begins.
    Raises ``OSError``.
    """
    accounts = [pwd.getpwnam(name) for name in (runtime, agents)]
    own, theirs = (Account(found.pw_uid, found.pw_gid) for found in accounts)
    # No program that is started from here on gains a capability, whatever its user or file.
    for capability in range(_CAP_MAX + 1):
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the kernel has no more of them
                raise
            break
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups(())
    os.setresgid(own.gid, own.gid, own.gid)
    os.setresuid(own.uid, own.uid, own.uid)
    _set_capabilities(_KEPT)
    _prctl(_PR_SET_DUMPABLE, 0)  # its memory and open files are closed to its own user as well
    return Identity(own, theirs)


def _become(account: Account) -> None:
    """Change the effective user of this thread; the real and the saved one stay, by which it goes
    who may send the process a signal.
    """
    try:
        set_uid, set_gid = _SYSTEM_CALLS[os.uname().machine]
        _system_call(set_gid, _UNCHANGED, account.gid, _UNCHANGED)
        _system_call(set_uid, _UNCHANGED, account.uid, _UNCHANGED)
    except (OSError, KeyError):
        os._exit(70)  # half of one user and half of another: nothing after this would be right


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _set_capabilities(effective: int, *, permitted: int | None = None) -> None:
    permitted = effective if permitted is None else permitted
    header = _Header(_CAPABILITY_VERSION_3, 0)
    data = (_Data * 2)(_Data(effective, permitted, 0), _Data(0, 0, 0))
    _check(_libc().capset(ctypes.byref(header), data))


def _prctl(option: int, value: int) -> None:
    given = (ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
    _check(_libc().prctl(ctypes.c_int(option), *given))


def _system_call(number: int, *arguments: int) -> None:
    _check(_libc().syscall(ctypes.c_long(number), *(ctypes.c_long(each) for each in arguments)))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
