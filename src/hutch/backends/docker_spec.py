"""What the engine is asked for: the walls of a sandbox, as Docker's API words them. Pure."""

from __future__ import annotations

from typing import Any, Final

from hutch.backends.base import (
    LABEL_INCARNATION,
    LABEL_INSTANCE,
    LABEL_SANDBOX,
    Isolation,
    SandboxSpec,
)

LABEL_ISOLATION: Final = "hutch.isolation"
USER: Final = "1000:1000"  # `app` in the image

RUNTIMES: Final[dict[Isolation, str]] = {"gvisor": "runsc", "runc": "runc"}

_MIB: Final = 1024 * 1024
_SHARES_PER_CPU: Final = 1024  # the kernel's weight of one whole CPU
# The engine keeps what a sandbox prints; a hostile one must not fill the host's disk with it.
_LOG: Final = {"Type": "local", "Config": {"max-size": "1m", "max-file": "2", "compress": "false"}}
_SHM_BYTES: Final = 16 * _MIB  # writable too, so counted: the engine's default is another 64 MB
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
        "User": USER,
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
            "NanoCpus": round(limits.cpu_ceiling * 1e9),
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
            "SecurityOpt": ["no-new-privileges:true"],  # seccomp: the engine's own default profile
            "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
            "LogConfig": _LOG,
            "RestartPolicy": {"Name": "no"},
            # Sandboxes need no names. Engines before 25.0.5 pass queries from an internal network
            # on to the host's resolver (CVE-2024-29018), a way out: send them nowhere.
            "Dns": ["127.0.0.1"],
            "DnsOptions": ["timeout:1", "attempts:1"],
        },
    }


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
    return f"rw,exec,nosuid,nodev,size={megabytes}m,mode=0700,uid=1000,gid=1000"
