"""At the kernel: calls that only an administrator of the host may make."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import stat
import struct

from hutch.walls.inside.calls import call, first_open, open_only

_NEWNS, _NEWUSER, _NEWPID, _NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_REMOUNT = 32


def mount() -> str:
    call("mount", b"none", b"/tmp", b"tmpfs", 0, None)
    return "mounted a file system"


def mount_proc() -> str:
    call("mount", b"proc", b"/tmp", b"proc", 0, None)
    return "mounted a second /proc"


def mount_cgroup() -> str:
    call("mount", b"cgroup", b"/tmp", b"cgroup", 0, b"memory")
    return "mounted the hierarchy of cgroups"


def remount_root() -> str:
    call("mount", None, b"/", None, _REMOUNT, None)
    return "mounted / for writing"


def new_mount_api() -> str:
    call("fsopen", b"tmpfs", 0)
    return "has a file system to mount"


def unmount() -> str:
    call("umount2", b"/proc", 2)
    return "took /proc away, and saw what is below it"


def change_root() -> str:
    os.chroot("/tmp")
    return "has another root directory"


def pivot_root() -> str:
    call("pivot_root", b"/tmp", b"/tmp")
    return "has another root file system"


def user_namespace() -> str:
    call("unshare", _NEWUSER)
    return "is root in a user namespace of its own"


def network_namespace() -> str:
    call("unshare", _NEWNET)
    return "has a network namespace of its own"


def pid_namespace() -> str:
    call("unshare", _NEWPID)
    return "has a pid namespace of its own"


def mount_namespace() -> str:
    call("unshare", _NEWNS)
    return "has a mount namespace of its own"


def root_by_namespace() -> str:
    """Root in a user namespace, then at what is outside of it."""
    call("unshare", _NEWUSER | _NEWNS)
    call("mount", None, b"/", None, _REMOUNT, None)
    with open("/etc/hutch-was-here", "w", encoding="utf-8"):
        return "wrote to the image's file system"


def crypto_socket() -> str:
    with socket.socket(38, socket.SOCK_SEQPACKET):  # AF_ALG
        return "speaks to the kernel's ciphers"


def raw_socket_by_namespace() -> str:
    """The same, at the network of the sandbox."""
    call("unshare", _NEWUSER)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW):
        return "reads and writes frames of the sandbox's network as root of a namespace"


def join_namespace() -> str:
    descriptor = os.open("/proc/1/ns/mnt", os.O_RDONLY)
    call("setns", descriptor, 0)
    return "joined the namespaces of process 1"


def add_key() -> str:
    call("add_key", b"user", b"hutch-attack", b"x", 1, -3)
    return "put a key on the kernel's ring"


def read_keys() -> str:
    call("keyctl", 0, -4, 1)
    return "opened the keyring of the user, which is the whole host's"


def request_key() -> str:
    call("request_key", b"user", b"hutch-attack", None, -3)
    return "asked the kernel for a key"


def kexec() -> str:
    call("kexec_load", 0, 0, None, 0xFFFFFFFF)
    return "loaded another kernel"


def bpf() -> str:
    hash_of_one = struct.pack("IIII", 1, 4, 4, 1)
    call("bpf", 0, ctypes.create_string_buffer(hash_of_one, 128), 128)
    return "made a map of BPF"


def perf() -> str:
    software_clock = struct.pack("II", 1, 128)
    call("perf_event_open", ctypes.create_string_buffer(software_clock, 128), 0, -1, -1, 0)
    return "measures the host's kernel"


def userfaultfd() -> str:
    call("userfaultfd", 0)
    return "handles the kernel's own page faults"


def io_uring() -> str:
    call("io_uring_setup", 1, ctypes.create_string_buffer(120))
    return "has a ring of io_uring, past every filter of system calls"


def open_by_handle() -> str:
    handle = ctypes.create_string_buffer(struct.pack("I", 128), 136)
    mounted = ctypes.create_string_buffer(4)
    call("name_to_handle_at", -100, b"/etc/passwd", handle, mounted, 0)
    root = os.open("/etc/hosts", os.O_RDONLY)
    call("open_by_handle_at", root, handle, os.O_RDONLY)
    return "opened a file by its handle, whatever directory it is in"


def load_module() -> str:
    call("init_module", b"", 0, b"")
    return "may load modules"


def load_module_file() -> str:
    call("finit_module", -1, b"", 0)
    return "may load modules"


def unload_module() -> str:
    call("delete_module", b"hutch-no-such-module", 2048)
    return "may unload modules"


def reboot() -> str:
    call("reboot", 1, 2, 3, None)
    return "may restart the host"


def set_clock() -> str:
    call("settimeofday", None, None)
    return "may set the clock"


def swap() -> str:
    call("swapon", b"/hutch-no-such-file", 0)
    return "may add swap"


def accounting() -> str:
    call("acct", b"/hutch-no-such-file")
    return "may record every process"


def watch_files() -> str:
    call("fanotify_init", 0, os.O_RDONLY)
    return "watches files of the host"


def kernel_log() -> str:
    call("syslog", 3, ctypes.create_string_buffer(1024), 1024)
    return "read the kernel's log"


def hostname() -> str:
    socket.sethostname("hutch-attack")
    return "renamed the machine"


def rights() -> str:
    """What the kernel says of this process."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    held = [n for n in ("CapInh", "CapPrm", "CapEff", "CapBnd") if int(fields[n], 16)]
    if held or "0" in fields["Uid"].split() or "0" in fields["Gid"].split():
        return f"has rights of root: {', '.join(held) or 'its number'}"
    if fields.get("NoNewPrivs", "1").strip() != "1":
        return "can get rights that a program's file gives"
    raise PermissionError(1, "it has none")


def capabilities() -> str:
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0), 8)
    call("capset", header, ctypes.create_string_buffer(b"\xff" * 8, 24))
    return "gave itself capabilities"


def become_root() -> str:
    os.setuid(0)
    return "is root"


def join_group() -> str:
    os.setgid(0)
    return "is in the group of root"


def join_groups() -> str:
    os.setgroups([0, 4, 999])
    return "joined other groups"


def outrank() -> str:
    os.setpriority(os.PRIO_PROCESS, 0, -10)
    return "goes before others on the CPU"


def real_time() -> str:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    return "takes a CPU from everybody"


def set_uid_programs() -> str:
    """None may be there, and none that is made may work."""
    found = []
    for root in ("/usr", "/bin", "/sbin", "/opt", "/home", "/workspace", "/var", "/etc", "/tmp"):
        for folder, _, names in os.walk(root):
            for name in names:
                path = f"{folder}/{name}"
                try:
                    mode = os.lstat(path).st_mode
                except OSError:
                    continue
                if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                    found.append(path)
    if found:
        return f"programs with the rights of another: {', '.join(found[:5])}"
    raise PermissionError(1, "there is none")


def make_disk() -> str:
    """Whichever of the host's disks has such a number; opened, not read."""
    refused = OSError(2, "there are none")
    for number, (major, minor) in enumerate(((8, 0), (254, 0), (259, 0), (7, 0))):
        path = f"/tmp/hutch-disk-{number}"
        try:
            os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(major, minor))
            return open_only(path, os.O_RDONLY)
        except OSError as error:
            refused = error
    raise refused


def make_memory() -> str:
    os.mknod("/tmp/hutch-mem", 0o600 | stat.S_IFCHR, os.makedev(1, 1))
    return open_only("/tmp/hutch-mem", os.O_RDONLY)


def devices() -> str:
    names = (
        *("mem", "kmem", "kmsg", "port", "sda", "vda", "nvme0n1", "kvm", "loop0", "loop-control"),
        *("mapper/control", "vhost-net", "vhost-vsock", "autofs", "uinput", "btrfs-control"),
    )
    return first_open([f"/dev/{name}" for name in names], os.O_RDONLY)


def fuse() -> str:
    return open_only("/dev/fuse", os.O_RDWR)


def tunnel_device() -> str:
    """Open it, and ask for an interface."""
    with open("/dev/net/tun", "rb+", buffering=0) as file:
        fcntl.ioctl(file, 0x400454CA, struct.pack("16sH22x", b"hutch0", 0x1002))
    return "has a network interface of its own"


def sysrq() -> str:
    return open_only("/proc/sysrq-trigger")


def core_pattern() -> str:
    return open_only("/proc/sys/kernel/core_pattern")


def helper_programs() -> str:
    return first_open(
        [
            "/proc/sys/kernel/modprobe",
            "/proc/sys/kernel/hotplug",
            "/sys/kernel/uevent_helper",
            "/proc/sys/fs/binfmt_misc/register",
            "/sys/kernel/mm/transparent_hugepage/enabled",
        ]
    )


def release_agent() -> str:
    found = []
    for folder, _, names in os.walk("/sys/fs/cgroup"):
        found += [
            f"{folder}/{n}"
            for n in names
            if n in {"release_agent", "cgroup.procs", "devices.allow"}
        ]
        if len(found) > 200:
            break
    return first_open(found)


def kernel_settings() -> str:
    """Every file of /proc/sys and /sys that can be opened for writing."""
    looked, opened = 0, []
    for root in ("/proc/sys", "/sys"):
        for folder, _, names in os.walk(root):
            for name in names:
                looked += 1
                try:
                    open_only(f"{folder}/{name}")
                    opened.append(f"{folder}/{name}")
                except OSError:
                    pass
            if looked > 4000:
                break
    if opened:
        return f"can change {', '.join(opened[:5])}"
    if not looked:
        raise FileNotFoundError(2, "there are none")
    raise PermissionError(1, f"none of {looked}")


def kernel_memory() -> str:
    """Files that tell of the host; masked ones are empty."""
    for path in (
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/sys/firmware/dmi/tables/DMI",
        "/proc/scsi/scsi",
        "/proc/acpi/wakeup",
    ):
        try:
            with open(path, "rb") as file:
                if file.read(16):
                    return f"read {path}"
        except OSError:
            continue
    raise PermissionError(1, "they are empty, or not there")


def process_one_root() -> str:
    """/proc/1/root is this very root, or closed; never the host's."""
    there, here = os.stat("/proc/1/root"), os.stat("/")
    if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
        raise PermissionError(1, "it is this sandbox's own root")
    return "reached another root through /proc/1/root"


def host_processes() -> str:
    """Names of processes that only a host has."""
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                    name = file.read().strip()
            except OSError:
                continue
            if name in {"kthreadd", "systemd", "init", "dockerd", "containerd", "sshd", "hutch"}:
                return f"sees the host's process {name}"
    raise PermissionError(1, "none of the host's processes is to be seen")


def engine_sockets() -> str:
    """The engine's socket, wherever it may have been mounted."""
    names = (
        "docker.sock",
        "containerd.sock",
        "podman.sock",
        "crio.sock",
        "buildkitd.sock",
        "gateway.sock",
    )
    for root in (
        "/run",
        "/var/run",
        "/tmp",
        "/home",
        "/workspace",
        "/mnt",
        "/media",
        "/srv",
        "/opt",
    ):
        for folder, _, files in os.walk(root):
            for name in files:
                if name in names:
                    return f"found {folder}/{name}"
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.strip().endswith(names):
                return f"sees {line.split()[-1]}"
    raise FileNotFoundError(2, "there is none")


def write_image() -> str:
    """The image's files, of which another sandbox's are the same."""
    for path in (
        "/etc/passwd",
        "/usr/bin/python3",
        "/opt/hutch/runtime/x",
        "/x",
        "/usr/local/bin/x",
    ):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            return f"wrote {path}"
        except OSError as error:
            refused = error
    raise refused
