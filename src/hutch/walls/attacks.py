"""Every attack of ``hutch doctor --deep``: what it tries, and what has to come of it.

Tried on hosts that serve users: whatever succeeds changes the throw-away sandbox alone.
"""

from __future__ import annotations

from typing import Final

from hutch.walls.models import Attack

_REFUSED: Final = frozenset({"EPERM", "EACCES", "ENOSYS", "SIGSYS"})
# Not there at all, in this kernel or in this sandbox.
_ABSENT: Final = _REFUSED | {"ENOENT", "ENODEV", "ENXIO", "EROFS", "ENOTSUP", "EAFNOSUPPORT"}
_UNHEARD: Final = _REFUSED | {
    *("timeout", "ECONNREFUSED", "ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT"),
}
_NO_CALL: Final = _ABSENT | {"ENOTTY", "ENOPROTOOPT"}

_REFUSE: Final = "is refused"
_NONE: Final = frozenset[str]()
_ENGINE: Final = (
    "Something gives sandboxes more rights than Hutch asks for: look at the engine's configuration "
    "(`docker info`, its default runtime, `--userns`, plugins) and at `hutch doctor`."
)
_SECCOMP: Final = (
    "The filter of system calls that Hutch gives its sandboxes is not in force: `docker info` has "
    "to name `seccomp` among the security options, and something must have changed what was "
    "asked for (a plugin, another runtime by the name of `runc`)."
)
_TWO_USERS: Final = (
    "Agents have the runtime's own user, or may act on it: is the image one that this version of "
    "Hutch has built? `hutch image build`, then roll it out."
)
_PROC: Final = (
    "Files of the kernel are not protected inside sandboxes: the engine must be one that masks "
    "/proc and /sys, and must not run sandboxes privileged."
)
_IMAGE: Final = "The image is not what Hutch builds: `hutch image build --force`, then roll it out."
_FIREWALL: Final = (
    "Packets from the sandboxes' bridge reach what they should not: `hutch doctor` says whether "
    "Hutch's firewall rules are in force, and what to type."
)
_NETWORK: Final = (
    "The sandboxes' network is not the closed one that Hutch makes: `make down`, remove the "
    "network `hutch-…` with `docker network rm`, `make up`."
)


def _call(name: str, tries: str, *, gvisor: bool = False, remedy: str = _SECCOMP) -> Attack:
    return Attack(f"kernel.{name}", tries, _REFUSE, remedy, _ABSENT, gvisor)


def _file(name: str, tries: str, *, gvisor: bool = False, remedy: str = _PROC) -> Attack:
    return Attack(f"kernel.{name}", tries, "is refused, or not there", remedy, _ABSENT, gvisor)


def _packet(name: str, tries: str, *, remedy: str = _FIREWALL) -> Attack:
    must = "gets no answer, and nothing arrives"
    return Attack(f"network.{name}", tries, must, remedy, _UNHEARD)


def _interface(name: str, tries: str) -> Attack:
    return Attack(f"network.{name}", tries, _REFUSE, _ENGINE, _NO_CALL | _UNHEARD)


KERNEL: Final = (
    _call("rights", "use a capability, or be root", remedy=_ENGINE),
    _call("mount", "mount a file system"),
    _call("mount_proc", "mount another /proc"),
    _call("mount_cgroup", "mount the hierarchy of cgroups, for its release_agent"),
    _call("remount_root", "mount / for writing"),
    _call("new_mount_api", "mount by fsopen"),
    _call("unmount", "take /proc away"),
    _call("change_root", "chroot", remedy=_ENGINE),
    _call("pivot_root", "pivot_root"),
    _call("user_namespace", "be root in a user namespace", gvisor=True),
    _call("network_namespace", "make a network namespace"),
    _call("pid_namespace", "make a pid namespace"),
    _call("mount_namespace", "make a mount namespace"),
    _call("root_by_namespace", "write to the image as root of a namespace"),
    _call("raw_socket_by_namespace", "send frames as root of a namespace"),
    _call("join_namespace", "enter the namespaces of process 1"),
    _call("add_key", "put a key on the kernel's keyring"),
    _call("read_keys", "open the keyring that the host's users share"),
    _call("request_key", "ask the kernel for a key"),
    _call("kexec", "load another kernel"),
    _call("bpf", "load BPF"),
    _call("perf", "open performance counters"),
    _call("userfaultfd", "handle page faults of the kernel"),
    _call("io_uring", "use io_uring"),
    _call("open_by_handle", "open a file by its handle, outside of any root"),
    _call("load_module", "load a kernel module"),
    _call("load_module_file", "load a kernel module from a file"),
    _call("unload_module", "unload a kernel module"),
    _call("reboot", "restart the host"),
    _call("set_clock", "set the clock"),
    _call("swap", "add swap"),
    _call("accounting", "record the host's processes"),
    _call("watch_files", "watch the host's files"),
    _call("kernel_log", "read the kernel's log", gvisor=True),
    _call("hostname", "rename the machine"),
    _call("crypto_socket", "open a socket to the kernel's ciphers"),
    _call("capabilities", "give itself capabilities", remedy=_ENGINE),
    _call("become_root", "setuid to root", remedy=_ENGINE),
    _call("join_group", "setgid to root's group", remedy=_ENGINE),
    _call("join_groups", "join groups of the host", remedy=_ENGINE),
    _call("outrank", "go before others on the CPU", gvisor=True, remedy=_ENGINE),
    Attack("kernel.real_time", "take a CPU by real-time scheduling", _REFUSE, _ENGINE,
           _ABSENT | {"EINVAL"}),
    _file("set_uid_programs", "find a program with the rights of another user", remedy=_IMAGE),
    _file("write_image", "write to the image's files", remedy=_IMAGE),
    _file("make_disk", "make a device node of a disk and open it", remedy=_ENGINE),
    _file("make_memory", "make /dev/mem and open it", remedy=_ENGINE),
    _file("devices", "open devices of the host (memory, disks, kvm, …)", remedy=_ENGINE),
    _file("fuse", "open /dev/fuse", gvisor=True, remedy=_ENGINE),
    _file("tunnel_device", "make a network interface by /dev/net/tun", remedy=_ENGINE),
    _file("sysrq", "open /proc/sysrq-trigger for writing"),
    _file("core_pattern", "open core_pattern for writing, which names a program of the host"),
    _file("helper_programs", "open other settings that name programs of the host"),
    _file("release_agent", "open files of cgroups for writing"),
    _file("kernel_settings", "open anything below /proc/sys and /sys for writing"),
    _file("kernel_memory", "read what tells of the host's kernel, such as /proc/kcore"),
    _file("process_one_root", "reach another root through /proc/1/root"),
    _file("host_processes", "see processes of the host", remedy=_ENGINE),
    _file("engine_sockets", "find the engine's socket", remedy=_ENGINE),
)  # fmt: skip

NETWORK: Final = (
    Attack(
        "network.gateway_port",
        "reach the gateway's port",
        "is reached, or the other attempts prove nothing",
        "Sandboxes cannot reach the gateway: the host's firewall, on the bridge `hutch-…`.",
        frozenset(),
        control=True,
    ),
    _packet("host_ports", "reach other ports of the host, from the sandboxes' network"),
    _packet("host_by_other_addresses", "reach the host by its other addresses"),
    _packet("host_udp", "send UDP to the host"),
    _packet("neighbour", "reach another sandbox", remedy=_NETWORK),
    _packet("neighbour_udp", "send UDP to another sandbox", remedy=_NETWORK),
    _packet("internet", "reach the internet", remedy=_NETWORK),
    _packet("internet_ipv6", "reach the internet by IPv6", remedy=_NETWORK),
    _packet("quic", "reach the internet by QUIC (UDP)", remedy=_NETWORK),
    _packet("dns_tunnel", "send DNS questions by UDP", remedy=_NETWORK),
    _packet("dns_by_tcp", "send DNS questions by TCP", remedy=_NETWORK),
    _packet("dns_of_engine", "send DNS questions through the engine's resolver", remedy=_NETWORK),
    _packet("resolve", "resolve a name as programs do", remedy=_NETWORK),
    _packet("metadata", "reach the cloud's metadata services", remedy=_NETWORK),
    _packet("metadata_ipv6", "reach metadata services by IPv6", remedy=_NETWORK),
    _packet("multicast", "find services by multicast"),
    _packet("broadcast", "find the host by broadcast"),
    _packet("link_local_ipv6", "find the host by IPv6 link-local addresses"),
    _packet("spoof_neighbour", "reach the gateway as another sandbox (IP_FREEBIND)"),
    _packet("spoof_free_address", "reach the gateway from an address that nobody has"),
    _interface("spoof_transparent", "reach the gateway as another sandbox (IP_TRANSPARENT)"),
    _interface("take_address", "give its interface the address of another sandbox"),
    _interface("take_hardware_address", "give its interface another hardware address"),
    _interface("add_route", "add a way out"),
    _interface("netlink", "change interfaces by netlink"),
    _interface("raw_socket", "send packets of its own making"),
    _interface("raw_ip_header", "send packets with headers of its own making"),
    _interface("packet_socket", "read and send frames"),
    _interface("packet_socket_cooked", "read and send packets below IP"),
    Attack("network.vsock", "open a socket to the hypervisor", _REFUSE, _SECCOMP, _NO_CALL),
    Attack(
        "network.vsock_disguised",
        "the same, by a number whose upper half the kernel does not read",
        _REFUSE,
        _SECCOMP,
        _NO_CALL,
    ),
)

RUNTIME: Final = tuple(
    Attack(
        f"runtime.{name}",
        tries,
        _REFUSE,
        _TWO_USERS,
        _REFUSED | more,
        # It shows both to everybody (docs/decisions/0021): no secret is in the environment, and
        # no descriptor that is seen can be used.
        allowed_in_gvisor=name in {"read_environment", "open_files"},
    )
    for name, tries, more in (
        ("trace", "trace the runtime", _NONE),
        ("read_memory", "open the runtime's memory", _NONE),
        ("copy_memory", "copy the runtime's memory", _NONE),
        ("read_environment", "read the runtime's environment", _NONE),
        ("open_files", "see the runtime's open files", _NONE),
        ("end", "end the runtime", _NONE),
        ("stop", "stop the runtime", _NONE),
        ("change_program", "change the runtime's program", {"EROFS"}),
        ("ask", "ask the runtime as the orchestrator does", _NONE),
        ("take_port", "listen on the runtime's port", {"EADDRINUSE"}),
    )
)

ATTACKS: Final = (*KERNEL, *NETWORK, *RUNTIME)
