"""What the engine answers, in the words of ``backends.base``. Pure."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from hutch.backends.base import (
    LABEL_INCARNATION,
    LABEL_INSTANCE,
    LABEL_SANDBOX,
    RUNTIME_PORT,
    BackendEvent,
    BackendState,
    EventKind,
    Image,
    Isolation,
    Observed,
    Stats,
)
from hutch.backends.docker_spec import LABEL_ISOLATION, network_name
from hutch.backends.ruleset import Bridge
from hutch.errors import BackendError

_STATES: Final[dict[str, BackendState]] = {
    "created": "created",
    "running": "running",
    "paused": "frozen",
    "restarting": "running",
    "removing": "exited",
    "exited": "exited",
    "dead": "exited",
}

EVENT_KINDS: Final[dict[str, EventKind]] = {
    "start": "started",
    "die": "exited",
    "oom": "oom",
    "pause": "frozen",
    "unpause": "unfrozen",
    "destroy": "destroyed",
}


# What the engine says of itself that walls are made of.
DESCRIPTION: Final = (
    *("ServerVersion", "KernelVersion", "CgroupVersion", "SecurityOptions", "Runtimes"),
    *("RuncCommit", "LiveRestoreEnabled"),
)


def described(info: Mapping[str, Any]) -> str:
    """What walls are made of, from ``GET /info``: in the same words as long as nothing changes."""
    said = {name: info.get(name) for name in DESCRIPTION}
    said["SecurityOptions"] = sorted(info.get("SecurityOptions") or ())
    return json.dumps(said, sort_keys=True)


def inspected(data: Mapping[str, Any], instance: str) -> Observed | None:
    """From ``GET /containers/{id}/json``; None if it is not a sandbox of this instance."""
    labels = data["Config"].get("Labels") or {}
    if labels.get(LABEL_INSTANCE) != instance:
        return None
    state = data["State"]
    exited = _STATES.get(state["Status"]) == "exited"
    return _observed(
        data["Id"],
        labels,
        state["Status"],
        data["NetworkSettings"],
        exit_code=state["ExitCode"] if exited else None,
        oom_killed=exited and bool(state.get("OOMKilled")),
    )


def pid(data: Mapping[str, Any]) -> int | None:
    """Of the first process, from ``GET /containers/{id}/json``; None if there is none."""
    return data["State"].get("Pid") or None


def listed(data: Mapping[str, Any]) -> Observed:
    """From one item of ``GET /containers/json``, which has no exit code: inspect tells it."""
    return _observed(data["Id"], data["Labels"], data["State"], data["NetworkSettings"])


def _observed(
    handle: str,
    labels: Mapping[str, str],
    status: str,
    network_settings: Mapping[str, Any],
    *,
    exit_code: int | None = None,
    oom_killed: bool = False,
) -> Observed:
    state = _STATES.get(status, "exited")
    network = network_settings["Networks"].get(network_name(labels[LABEL_INSTANCE])) or {}
    address = network.get("IPAddress") if state in {"running", "frozen"} else None
    isolation: Isolation = "gvisor" if labels.get(LABEL_ISOLATION) == "gvisor" else "runc"
    return Observed(
        handle=handle,
        sandbox_id=labels.get(LABEL_SANDBOX, ""),
        incarnation=labels.get(LABEL_INCARNATION, ""),
        state=state,
        address=address or None,
        port=RUNTIME_PORT,
        isolation=isolation,
        exit_code=exit_code,
        oom_killed=oom_killed,
    )


def stats(data: Mapping[str, Any] | None) -> Stats:
    """From ``GET /containers/{id}/stats``; all zero when it does not run. Raises ``BackendError``:
    the engine answers nothing at all when the container ends in the middle of the question.

    The working set, as ``docker stats`` counts it: usage less the page cache that nobody has used
    of late. cgroup v1 calls that ``total_inactive_file``, v2 ``inactive_file``.
    """
    if data is None:
        raise BackendError("The container ended while it was looked at.")
    memory = data.get("memory_stats") or {}
    detail = memory.get("stats") or {}
    droppable = detail.get("total_inactive_file", detail.get("inactive_file", 0))
    usage = memory.get("usage", 0)
    return Stats(
        cpu_seconds=data["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
        memory_bytes=max(0, usage - droppable),
        memory_limit_bytes=memory.get("limit", 0),
        pids=(data.get("pids_stats") or {}).get("current", 0),
    )


def image(data: Mapping[str, Any]) -> Image:
    """From ``GET /images/{name}/json``."""
    made_at = datetime.fromisoformat(data["Created"]).timestamp()
    return _image(data, data["Config"].get("Labels"), made_at)


def listed_image(data: Mapping[str, Any]) -> Image:
    """From one item of ``GET /images/json``."""
    return _image(data, data["Labels"], data["Created"])


def _image(data: Mapping[str, Any], labels: Mapping[str, str] | None, made_at: float) -> Image:
    names = tuple(name for name in data.get("RepoTags") or () if name != "<none>:<none>")
    return Image(id=data["Id"], names=names, labels=labels or {}, made_at=made_at)


def event(data: Mapping[str, Any]) -> BackendEvent | None:
    """From one message of ``GET /events``; None if it says nothing about a sandbox's state."""
    kind = EVENT_KINDS.get(data.get("Action", ""))
    labels = (data.get("Actor") or {}).get("Attributes") or {}
    if kind is None or LABEL_SANDBOX not in labels:
        return None
    return BackendEvent(labels[LABEL_SANDBOX], labels.get(LABEL_INCARNATION, ""), kind)


def plugged_in(data: Mapping[str, Any], instance: str) -> tuple[int, str, str] | None:
    """A process, MAC and address of a sandbox, from ``GET /containers/{id}/json``; None if it does
    not run.
    """
    network = data["NetworkSettings"]["Networks"].get(network_name(instance)) or {}
    process, mac, address = pid(data), network.get("MacAddress"), network.get("IPAddress")
    return (process, mac.lower(), address) if process and mac and address else None


def bridge(network: Mapping[str, Any], instance: str, gateway_port: int) -> Bridge:
    """The sandboxes' bridge, from ``GET /networks/{name}``.

    Raises ``BackendError`` when the network is not the closed one that we make.
    """
    name = network_name(instance)
    labels = network.get("Labels") or {}
    options = network.get("Options") or {}
    closed = (
        network.get("Internal") is True
        and options.get("com.docker.network.bridge.enable_icc") == "false"
        and labels.get(LABEL_INSTANCE) == instance
    )
    if not closed:
        raise BackendError(
            f"The Docker network {name} exists, but is not the closed one that Hutch makes.",
            hint=f"Remove it with `docker network rm {name}`; Hutch makes it anew.",
        )
    for config in network["IPAM"].get("Config") or []:
        subnet = ipaddress.ip_network(config["Subnet"], strict=False)
        if isinstance(subnet, ipaddress.IPv4Network):
            host = str(config.get("Gateway") or next(subnet.hosts())).partition("/")[0]
            return Bridge(name, subnet, ipaddress.IPv4Address(host), gateway_port)
    raise BackendError(f"The Docker network {name} has no IPv4 subnet.")
