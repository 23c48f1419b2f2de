"""What the engine is asked for: the walls of a sandbox, as Docker's API words them. Pure."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any, Final

from hutch.backends.base import (
    LABEL_INCARNATION,
    LABEL_INSTANCE,
    LABEL_SANDBOX,
    Isolation,
    Resources,
    SandboxSpec,
)
from hutch.backends.system_calls import PROFILE

LABEL_ISOLATION: Final = "hutch.isolation"
# The runtime starts with these, keeps the first three for itself, and gives its agents none: see
# docs/decisions/0021-two-users.md. Which user is in the image: in one from before, `app` itself.
CAPABILITIES: Final = ("KILL", "SETGID", "SETUID", "SETPCAP")

RUNTIMES: Final[dict[Isolation, str]] = {"gvisor": "runsc", "runc": "runc"}
_ISOLATIONS: Final = {name: isolation for isolation, name in RUNTIMES.items()}

_MIB: Final = 1024 * 1024
_SHARES_PER_CPU: Final = 1024  # the kernel's weight of one whole CPU
_PER_CPU: Final = 1_000_000_000  # nanoseconds of it a second
# The engine keeps what a sandbox prints; a hostile one must not fill the host's disk with it.
_LOG: Final = {"Type": "local", "Config": {"max-size": "1m", "max-file": "2", "compress": "false"}}
# gVisor makes the kernel's calls itself, and lets none of the sandbox's through.
_FILTER: Final[dict[Isolation, tuple[str, ...]]] = {"runc": (f"seccomp={PROFILE}",), "gvisor": ()}
_SHM_BYTES: Final = 16 * _MIB  # writable too, so counted: the engine's default is another 64 MB
FILES_MAX: Final = 16_384  # open at once, in each process; a build tool needs some thousands
_INODES_PER_MB: Final = 1024  # each takes memory of the kernel, which no size of a file counts
# When the host itself runs out of memory, a sandbox goes before the service does.
_OOM_SCORE: Final = 500


def name_of(instance: str, incarnation: str) -> str:
    return f"hutch-{instance}-{incarnation}"


def network_name(instance: str) -> str:
    return f"hutch-{instance}"


def container_config(spec: SandboxSpec, isolation: Isolation) -> dict[str, Any]:
    """The body of ``POST /containers/create``."""
    limits = spec.resources
    memory = limits.memory_hard_mb * _MIB
    return {
        "Image": spec.image,
        "Hostname": "sandbox",
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "Labels": {
            LABEL_INSTANCE: spec.instance,
            LABEL_SANDBOX: spec.sandbox_id,
            LABEL_INCARNATION: spec.incarnation,
            LABEL_ISOLATION: isolation,
        },
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "Runtime": RUNTIMES[isolation],
            "NetworkMode": network_name(spec.instance),
            "CpuShares": round(limits.cpu_share * _SHARES_PER_CPU),
            "NanoCpus": round(limits.cpu_ceiling * _PER_CPU),
            "Memory": memory,
            "MemorySwap": memory,  # the sum of both: no swap
            "MemoryReservation": limits.memory_soft_mb * _MIB,
            "PidsLimit": limits.pids,
            "OomScoreAdj": _OOM_SCORE,
            "ReadonlyRootfs": True,
            "Tmpfs": {
                "/workspace": _tmpfs(limits.workspace_mb),
                "/home/app": _tmpfs(limits.home_mb),
                "/tmp": _tmpfs(limits.tmp_mb),  # noqa: S108  (inside, and private to the sandbox)
            },
            "ShmSize": _SHM_BYTES,
            "IpcMode": "private",
            "CapDrop": ["ALL"],
            "CapAdd": list(CAPABILITIES),
            "SecurityOpt": ["no-new-privileges:true", *_FILTER[isolation]],
            "Ulimits": [
                {"Name": "core", "Soft": 0, "Hard": 0},
                {"Name": "nofile", "Soft": FILES_MAX, "Hard": FILES_MAX},
            ],
            "LogConfig": _LOG,
            "RestartPolicy": {"Name": "no"},
            # Sandboxes need no names. Engines before 25.0.5 pass queries from an internal network
            # on to the host's resolver (CVE-2024-29018), a way out: send them nowhere.
            "Dns": ["127.0.0.1"],
            "DnsOptions": ["timeout:1", "attempts:1"],
        },
    }


def spec_of(config: Mapping[str, Any]) -> tuple[SandboxSpec, Isolation]:
    """What ``container_config`` would have to be given to make this; the engine's door makes it
    again from that, and takes no other. Raises ``ValueError``, ``LookupError``, ``TypeError`` or
    ``AttributeError`` where something is missing or of another type; what is there besides, or
    is another wall, only the comparison finds.
    """
    labels, host = config["Labels"], config["HostConfig"]
    sizes = host["Tmpfs"]
    resources = Resources(
        cpu_share=_whole(host["CpuShares"]) / _SHARES_PER_CPU,
        cpu_ceiling=_whole(host["NanoCpus"]) / _PER_CPU,
        memory_soft_mb=_whole(host["MemoryReservation"]) // _MIB,
        memory_hard_mb=_whole(host["Memory"]) // _MIB,
        pids=_whole(host["PidsLimit"]),
        agent_pids=0,  # the runtime's own, and not among what the engine is told
        workspace_mb=_megabytes(sizes["/workspace"]),
        home_mb=_megabytes(sizes["/home/app"]),
        tmp_mb=_megabytes(sizes["/tmp"]),  # noqa: S108  (inside, and private to the sandbox)
    )
    spec = SandboxSpec(
        instance=labels[LABEL_INSTANCE],
        sandbox_id=labels[LABEL_SANDBOX],
        incarnation=labels[LABEL_INCARNATION],
        image=config["Image"],
        env=dict(_variable(text) for text in config["Env"]),
        resources=resources,
    )
    return spec, _ISOLATIONS[host["Runtime"]]


def chosen_isolation(wanted: str, runtimes: Container[str]) -> Isolation:
    """By ``Settings.isolation`` and what the engine has; never less than what was asked for."""
    if wanted == "auto":
        return "gvisor" if RUNTIMES["gvisor"] in runtimes else "runc"
    return "runc" if wanted == "runc" else "gvisor"


def network_config(instance: str, subnet: str) -> dict[str, Any]:
    """The body of ``POST /networks/create``: no way out, none to a neighbour, only to the host.

    The bridge has a name, for firewall rules, and because two of one name cannot exist: the
    engine itself lets two networks have one when creations race.
    """
    name = network_name(instance)
    return {
        "Name": name,
        "CheckDuplicate": True,
        "Driver": "bridge",
        "Internal": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Config": [{"Subnet": subnet}] if subnet else []},
        "Options": {
            "com.docker.network.bridge.name": name,  # 14 of the kernel's 15 characters
            "com.docker.network.bridge.enable_icc": "false",
        },
        "Labels": {LABEL_INSTANCE: instance},
    }


def _tmpfs(megabytes: int) -> str:
    inodes = megabytes * _INODES_PER_MB
    size = f"size={megabytes}m,nr_inodes={inodes}"
    return f"rw,exec,nosuid,nodev,{size},mode=0700,uid=1000,gid=1000"


def _megabytes(options: str) -> int:
    found = re.search(r",size=([0-9]{1,7})m,", options)
    if found is None:
        raise ValueError("a directory has no size")
    return int(found[1])


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError("a variable has no value")
    return name, value


def _whole(number: object) -> int:
    if type(number) is not int or number < 1:
        raise ValueError("a limit is not a whole number above 0")
    return number
