"""The filter of system calls for sandboxes under runc. Pure.

Everything that is not named here is refused. The lists were made from the kernel's own table of
calls (``asm/unistd_64.h`` of Linux 6.1, and what came since) by asking of each what a programmer's
tools need, and compared with the default of the engine (``seccomp/default.json`` of moby/profiles,
October 2026): docs/decisions/0035 has the differences. In two places it is looser than nothing and
tighter than the engine's: kinds of sockets, and namespaces. gVisor has its own wall and takes none.
"""

from __future__ import annotations

import json
from typing import Any, Final

_FILES: Final = """
    access cachestat chdir chmod chown close close_range copy_file_range creat dup dup2 dup3
    faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl
    fdatasync flock fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 ioctl lchown
    link linkat lseek lstat mkdir mkdirat mknod mknodat newfstatat open openat openat2 readahead
    readlink readlinkat rename renameat renameat2 rmdir stat statfs statx symlink symlinkat
    sync_file_range truncate umask unlink unlinkat utime utimensat utimes
    fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat
    llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
"""
_BYTES: Final = """
    pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readv sendfile splice tee
    vmsplice write writev
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 poll
    ppoll pselect6 select
    io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit
"""
# `socket` and `socketpair` are below, by the kind of what they open.
_SOCKETS: Final = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg
    sendmmsg sendmsg sendto setsockopt shutdown
"""
_MEMORY: Final = """
    brk madvise map_shadow_stack membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect
    mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
    shmat shmctl shmdt shmget
"""
# `clone` is below, by its flags. Debuggers trace what is their own user's; the runtime is not.
_PROCESSES: Final = """
    arch_prctl execve execveat exit exit_group fork getpgid getpgrp getpid getppid getpriority
    getrlimit getrusage getsid gettid kill pidfd_open pidfd_send_signal prctl prlimit64
    process_vm_readv process_vm_writev ptrace restart_syscall rseq set_robust_list set_tid_address
    get_robust_list setpgid setpriority setrlimit setsid tgkill tkill vfork wait4 waitid
    ioprio_get getcpu sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
    sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield
    futex futex_requeue futex_wait futex_waitv futex_wake
    msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink
"""
_SIGNALS_AND_TIME: Final = """
    alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep pause
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_tgsigqueueinfo setitimer sigaltstack signalfd signalfd4 time timer_create
    timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
    timerfd_settime times uretprobe
"""
# The runtime becomes an agent's user by these; an agent has no capability to make use of them.
# With the last line a program gives up rights of its own: Codex does so.
_USERS: Final = """
    capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid
    setgid setgroups setregid setresgid setresuid setreuid setuid
    getrandom sysinfo uname
    landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp
"""

ALLOWED: Final = tuple(
    sorted(f"{_FILES}{_BYTES}{_SOCKETS}{_MEMORY}{_PROCESSES}{_SIGNALS_AND_TIME}{_USERS}".split())
)

_UNIX, _IPV4, _IPV6, _NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE: Final = 0  # by which programs learn their own addresses
# CLONE_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET
_NAMESPACES: Final = 0x7E020000
_LINUX, _ASK = 0, 0xFFFFFFFF  # personalities: the ordinary one, and which it is
_EPERM, _ENOSYS = 1, 38


def profile() -> dict[str, Any]:
    """In the engine's words. Only the machine's own calls: none of 32 bits, none of x32.

    Arguments are compared for what they may be. The kernel reads 32 of the 64 bits that a filter
    sees: what is merely unequal to a number that is forbidden may be that number to the kernel.
    """
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _EPERM,
        "archMap": [
            {"architecture": f"SCMP_ARCH_{machine}", "subArchitectures": []}
            for machine in ("X86_64", "AARCH64")
        ],
        "syscalls": [
            _rule(*ALLOWED),
            *(_rule("socket", args=[_is(0, family)]) for family in (_UNIX, _IPV4, _IPV6)),
            _rule("socket", args=[_is(0, _NETLINK), _is(2, _NETLINK_ROUTE)]),
            _rule("socketpair", args=[_is(0, _UNIX)]),
            _rule("clone", args=[_without(0, _NAMESPACES)]),
            *(_rule("personality", args=[_is(0, one)]) for one in (_LINUX, _ASK)),
            # Its flags lie in memory, where no filter looks. Without it programs take `clone`.
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        ],
    }


def _rule(*names: str, args: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    conditions = {"args": args} if args else {}
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **conditions}


def _is(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": 0, "op": "SCMP_CMP_EQ"}


def _without(index: int, bits: int) -> dict[str, Any]:
    return {"index": index, "value": bits, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}


PROFILE: Final = json.dumps(profile(), separators=(",", ":"))
