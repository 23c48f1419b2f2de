"""What a container has to be like to be let through: exactly what the backend makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.backends.base import Isolation, Resources, SandboxSpec
from hutch.backends.docker_spec import container_config, network_config, spec_of
from hutch.engine_door.strict import Refused, canonical
from hutch.engine_door.walls import checked_container, checked_network
from hutch.ids import new_id

INSTANCE = "0123abcd"
MOST = Resources()
IMAGE = "hutch-sandbox:latest"


def spec(**resources: float) -> SandboxSpec:
    return SandboxSpec(
        instance=INSTANCE,
        sandbox_id=new_id("sbx"),
        incarnation=new_id("inc"),
        image=IMAGE,
        env={"HUTCH_GATEWAY_URL": "http://172.30.0.1:8485", "HUTCH_PREWARM": ""},
        resources=Resources(**resources),  # type: ignore[arg-type]  # whole numbers, by name
    )


def check(config: Any) -> tuple[SandboxSpec, Isolation]:
    return checked_container(config, instance=INSTANCE, most=MOST)


megabytes = st.integers(1, 4096)


@given(
    resources=st.builds(
        Resources,
        cpu_share=st.sampled_from([0.001, 0.1, 0.25, 0.3, 0.5, 1.0, 1.5, 3.7]),
        cpu_ceiling=st.sampled_from([0.01, 0.1, 0.5, 1.0, 1.15, 2.5, 3.7]),
        memory_soft_mb=megabytes,
        memory_hard_mb=megabytes,
        pids=st.integers(1, 10_000),
        agent_pids=st.just(0),
        workspace_mb=megabytes,
        home_mb=megabytes,
        tmp_mb=megabytes,
    ),
    isolation=st.sampled_from(["gvisor", "runc"]),
    value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
)
def test_a_spec_is_read_back_from_what_is_made_of_it(
    resources: Resources, isolation: Isolation, value: str
) -> None:
    """Or the door refuses what the backend asks for. Whoever changes the one has to change both."""
    sent = SandboxSpec(INSTANCE, new_id("sbx"), new_id("inc"), IMAGE, {"HUTCH_X": value}, resources)
    config = container_config(sent, isolation)
    read, under = spec_of(json.loads(json.dumps(config)))
    assert under == isolation
    assert canonical(container_config(read, under)) == canonical(config)


def test_what_the_backend_makes_is_taken() -> None:
    for isolation in ("gvisor", "runc"):
        sent = spec()
        read, under = check(container_config(sent, isolation))
        assert (read.incarnation, read.env, under) == (sent.incarnation, sent.env, isolation)


Change = Callable[[dict[str, Any]], object]


def host(**more: Any) -> Change:
    return lambda config: config["HostConfig"].update(more)


def top(**more: Any) -> Change:
    return lambda config: config.update(more)


def label(name: str, value: str) -> Change:
    return lambda config: config["Labels"].update({name: value})


def one_more_call(config: dict[str, Any]) -> None:
    rights, kept = config["HostConfig"]["SecurityOpt"]
    more = kept.replace('"names":[', '"names":["bpf",', 1)
    config["HostConfig"]["SecurityOpt"] = [rights, more]


# Each is one way out of a sandbox, or into somebody else's.
CHANGES: dict[str, tuple[str, Change]] = {
    "privileged": ("walls", host(Privileged=True)),
    "privileged in another case": ("walls", host(privileged=True)),
    "HostConfig in another case": ("walls", top(hostconfig={"Privileged": True})),
    "the host's root": ("walls", host(Binds=["/:/host"])),
    "the engine's socket": ("walls", host(Binds=["/var/run/docker.sock:/s"])),
    "a mount": ("walls", host(Mounts=[{"Type": "bind", "Source": "/", "Target": "/h"}])),
    "a volume": ("walls", top(Volumes={"/v": {}})),
    "others' volumes": ("walls", host(VolumesFrom=["other"])),
    "a device": ("walls", host(Devices=[{"PathOnHost": "/dev/sda"}])),
    "device rules": ("walls", host(DeviceCgroupRules=["a *:* rwm"])),
    "a GPU": ("walls", host(DeviceRequests=[{"Count": -1, "Capabilities": [["gpu"]]}])),
    "a capability": ("walls", host(CapAdd=["SYS_ADMIN"])),
    "all capabilities kept": ("walls", host(CapDrop=[])),
    "no seccomp": ("walls", host(SecurityOpt=["no-new-privileges:true", "seccomp=unconfined"])),
    "the engine's seccomp": ("walls", host(SecurityOpt=["no-new-privileges:true"])),
    "one more call": ("walls", one_more_call),
    "seccomp from a file": (
        "walls",
        host(SecurityOpt=["no-new-privileges:true", "seccomp=/workspace/mine.json"]),
    ),
    "new privileges": ("walls", host(SecurityOpt=[])),
    "the host's pids": ("walls", host(PidMode="host")),
    "another container's pids": ("walls", host(PidMode="container:other")),
    "the host's network": ("walls", host(NetworkMode="host")),
    "another network": ("walls", host(NetworkMode="bridge")),
    "one more network": ("walls", top(NetworkingConfig={"EndpointsConfig": {"bridge": {}}})),
    "the host's IPC": ("walls", host(IpcMode="host")),
    "the host's UTS": ("walls", host(UTSMode="host")),
    "the host's users": ("walls", host(UsernsMode="host")),
    "the host's cgroups": ("walls", host(CgroupnsMode="host")),
    "another cgroup": ("walls", host(CgroupParent="/")),
    "a runtime of its own": ("walls", host(Runtime="/workspace/mine")),
    "a sysctl": ("walls", host(Sysctls={"kernel.msgmax": "1"})),
    "open paths": ("walls", host(MaskedPaths=[], ReadonlyPaths=[])),
    "a root to write": ("walls", host(ReadonlyRootfs=False)),
    "a port": ("walls", host(PortBindings={"3000/tcp": [{"HostPort": "80"}]})),
    "all ports": ("walls", host(PublishAllPorts=True)),
    "a name server": ("walls", host(Dns=["8.8.8.8"])),
    "a restart policy": ("walls", host(RestartPolicy={"Name": "always"})),
    "a log to somewhere": ("walls", host(LogConfig={"Type": "syslog", "Config": {}})),
    "an OOM score": ("walls", host(OomScoreAdj=-1000)),
    "no OOM killer": ("walls", host(OomKillDisable=True)),
    "init by the host": ("walls", host(Init=True)),
    "storage": ("walls", host(StorageOpt={"size": "1T"})),
    "set-uid in a tmpfs": ("walls", lambda c: c["HostConfig"]["Tmpfs"].update({"/x": "suid"})),
    "other tmpfs options": (
        "walls",
        lambda c: c["HostConfig"]["Tmpfs"].update(
            {"/home/app": "rw,exec,suid,dev,size=64m,mode=1777"}
        ),
    ),
    "root": ("walls", top(User="0:0")),
    "a program": ("walls", top(Cmd=["sh"])),
    "an entry point": ("walls", top(Entrypoint=["sh"])),
    "a health check that runs": ("walls", top(Healthcheck={"Test": ["CMD", "sh"]})),
    "a terminal": ("walls", top(Tty=True, OpenStdin=True)),
    "a MAC address": ("walls", top(MacAddress="02:42:ac:11:00:02")),
    "a label more": ("walls", label("com.docker.compose.project", "x")),
    "a label of another isolation": ("walls", label("hutch.isolation", "gvisor")),
    "true for one": ("walls", host(PidsLimit=True)),
    "no limit of pids": ("walls", host(PidsLimit=-1)),
    "no limit of memory": ("walls", host(Memory=0, MemorySwap=0)),
    "swap": ("walls", host(MemorySwap=-1)),
    "half a megabyte": ("walls", host(Memory=(64 << 20) + 1, MemorySwap=(64 << 20) + 1)),
    "no limit of CPU": ("walls", host(NanoCpus=0)),
    "no HostConfig": ("walls", lambda c: c.pop("HostConfig")),
    "a list for a body": ("walls", lambda c: c.update(Labels=[])),
    "another instance": ("walls", label("hutch.instance", "ffffffff")),
    "no sandbox": ("walls", label("hutch.sandbox", "../x")),
    "an image that is none": ("image", top(Image="../../etc")),
    "an image with a query": ("image", top(Image="hutch-sandbox?x=1")),
    "LD_PRELOAD": ("environment", lambda c: c["Env"].append("LD_PRELOAD=/workspace/x.so")),
    "PATH": ("environment", lambda c: c["Env"].append("PATH=/workspace")),
    "a variable for each": (
        "environment",
        lambda c: c["Env"].extend(f"HUTCH_{n}=" for n in range(80)),
    ),
    "a long variable": ("environment", lambda c: c["Env"].append("HUTCH_X=" + "x" * 5000)),
    "a variable twice": ("walls", lambda c: c["Env"].append(c["Env"][0])),
}


@pytest.mark.parametrize("name", CHANGES)
def test_anything_else_is_refused(name: str) -> None:
    rule, change = CHANGES[name]
    config = container_config(spec(), "runc")
    change(config)
    with pytest.raises(Refused) as refused:
        check(config)
    assert refused.value.rule == rule


@pytest.mark.parametrize(
    "more",
    [
        {"memory_hard_mb": MOST.memory_hard_mb + 1},
        {"memory_soft_mb": MOST.memory_soft_mb + 1},
        {"pids": MOST.pids + 1},
        {"cpu_ceiling": MOST.cpu_ceiling + 0.1},
        {"cpu_share": MOST.cpu_share + 0.1},
        {"workspace_mb": MOST.workspace_mb + 1},
        {"home_mb": MOST.home_mb + 1},
        {"tmp_mb": MOST.tmp_mb + 1},
    ],
    ids=lambda more: next(iter(more)),
)
def test_more_than_the_settings_give_is_refused(more: dict[str, float]) -> None:
    with pytest.raises(Refused) as refused:
        check(container_config(spec(**more), "runc"))
    assert refused.value.rule == "limits"


def test_the_instance_of_the_door_alone() -> None:
    other = container_config(spec(), "runc")
    with pytest.raises(Refused) as refused:
        checked_container(other, instance="ffffffff", most=MOST)
    assert refused.value.rule == "own"


def test_the_refusal_names_what_is_wrong() -> None:
    config = container_config(spec(), "runc")
    config["HostConfig"]["Privileged"] = True
    with pytest.raises(Refused, match=r"HostConfig\.Privileged is not as Hutch makes it"):
        check(config)


@pytest.mark.parametrize(
    "change",
    [
        {"Internal": False},
        {"Driver": "macvlan"},
        {"EnableIPv6": True},
        {"Name": "bridge"},
        {"Options": {"com.docker.network.bridge.enable_icc": "true"}},
        {"IPAM": {"Driver": "default", "Config": [{"Subnet": "10.0.0.0/8"}]}},
        {"Attachable": True},
        {"internal": False},
    ],
    ids=str,
)
def test_a_network_that_is_not_the_closed_one_is_refused(change: dict[str, Any]) -> None:
    right = network_config(INSTANCE, "")
    assert checked_network(right, instance=INSTANCE, subnet="") == right
    with pytest.raises(Refused):
        checked_network({**right, **change}, instance=INSTANCE, subnet="")
