"""The wall between a sandbox, the host and its neighbours, tried with more rights than any sandbox
has: those of root on the host, inside the sandbox's own network.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import string
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from hutch.backends import nft, ruleset
from hutch.backends.base import Observed
from hutch.backends.docker import DockerBackend
from hutch.backends.ruleset import Bridge, Place
from hutch.config import Settings
from hutch.errors import BackendError
from hutch.host import firewall
from tests.contract.conftest import IMAGE, Bench, _bench, docker
from tests.contract.waiting import eventually

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes the host's packet filter")

# Tries each (address, port) from the source address given, if one is; what was reached, as JSON.
REACH = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def reach(target):
    source, host, port = target
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as one:
        one.settimeout(1)
        try:
            if source:
                one.bind((source, 0))
            one.connect(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4])
            return [host]
        except OSError:
            return []
with ThreadPoolExecutor(32) as pool:
    print(json.dumps(sum(pool.map(reach, json.loads(sys.argv[1])), [])))
"""
# What needs no right at all, and what does: tried as the agent's own user.
POSE = """
import json, socket, struct, sys
host, port, neighbour = sys.argv[1], int(sys.argv[2]), sys.argv[3]
said = {}
def attempt(name, act):
    try:
        act()
        said[name] = "done"
    except OSError as error:
        said[name] = type(error).__name__
def connect(option):
    with socket.socket() as one:
        one.settimeout(1)
        one.setsockopt(socket.SOL_IP, option, 1)
        one.bind((neighbour, 0))
        one.connect((host, port))
attempt("freebind", lambda: connect(15))
attempt("transparent", lambda: connect(19))
attempt("bind", lambda: socket.create_connection((host, port), 1, (neighbour, 0)))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 255))
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    import fcntl
    given = struct.pack("16sH2s4s8s", b"eth0:1", 2, b"", socket.inet_aton(neighbour), b"")
    attempt("add", lambda: fcntl.ioctl(one, 0x8916, given))  # SIOCSIFADDR
print(json.dumps(said))
"""
# ARP in the neighbour's name, with one's own MAC and with theirs; a frame of LLDP that no filter
# sees; a first packet to the gateway from their address. On a cable that may carry anything.
FORGE = """
import socket, struct, sys
own, theirs, victim, host = sys.argv[1:5]
mac = lambda text: bytes.fromhex(text.replace(":", ""))
one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)
one.bind(("eth0", 0))
for sender in (own, theirs):
    for said in (own, theirs):
        for operation in (1, 2):
            for target in (victim, host):
                one.send(b"\\xff" * 6 + mac(sender) + b"\\x08\\x06" + struct.pack(
                    "!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, operation, mac(said),
                    socket.inet_aton(victim), b"\\0" * 6, socket.inet_aton(target)))
    for last in range(16):
        one.send(bytes.fromhex("0180c20000") + bytes([last]) + mac(sender)
                 + b"\\x88\\xcc" + b"x" * 50)
    one.send(b"\\xff" * 6 + mac(sender) + b"\\x08\\x00" + b"\\x45" + b"\\0" * 60)
"""


@dataclass
class Gateway:
    """Notes who reached it, and answers each with the address that it was reached from."""

    listener: socket.socket
    seen: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def serve(self) -> None:
        with contextlib.suppress(OSError):  # it is closed at the end
            while True:
                connection, (source, _) = self.listener.accept()
                self.seen.append(source)
                connection.close()


@contextlib.contextmanager
def gateway_of(bench: Bench, host: str) -> Iterator[Gateway]:
    with socket.create_server((host, bench.settings.gateway_port)) as listener:
        gateway = Gateway(listener)
        threading.Thread(target=gateway.serve, daemon=True).start()
        yield gateway
        listener.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Two:
    """Sandboxes side by side, and the host's end of their bridge."""

    bench: Bench
    host: str
    attacker: Observed
    victim: Observed

    @property
    def table(self) -> str:
        return f"hutch-{self.bench.settings.instance}"


@pytest_asyncio.fixture(
    loop_scope="module", scope="module", params=["docker-runc", "docker-gvisor"]
)
async def two(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Two]:
    async for bench in _bench(request.param, request, tmp_path_factory.mktemp("two")):
        serve = "exec python3 -m http.server 3000"
        made = [await bench.backend.create(bench.spec(serve)) for _ in range(2)]
        attacker, victim = [await bench.backend.start(one.handle) for one in made]
        for one in (attacker, victim):
            await eventually(lambda one=one: asyncio.to_thread(answers, one))  # type: ignore[misc]
        yield Two(bench, await bench.backend.prepare(), attacker, victim)


def answers(sandbox: Observed) -> bool:
    try:
        socket.create_connection((sandbox.address, sandbox.port), timeout=2).close()
    except OSError:
        return False
    return True


def inside(sandbox: Observed, *argv: str) -> str:
    said = docker("exec", sandbox.handle, *argv)
    assert not said.startswith("ERROR"), said
    return said


def beside(sandbox: Observed, *argv: str) -> str:
    """As root of the host, in the sandbox's network."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", sandbox.handle).strip()
    argv = ("nsenter", f"--net=/proc/{pid}/ns/net", *argv)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def mac(sandbox: Observed) -> str:
    form = "{{range .NetworkSettings.Networks}}{{.MacAddress}}{{end}}"
    return docker("inspect", "--format", form, sandbox.handle).strip()


def reached(sandbox: Observed, *targets: tuple[str, str, int], rights: bool = False) -> list[str]:
    argv = (sys.executable if rights else "python3", "-c", REACH, json.dumps(targets))
    found: list[str] = json.loads((beside if rights else inside)(sandbox, *argv))
    return found


@as_root
def test_of_the_host_the_gateways_port_alone_is_reached(two: Two) -> None:
    with gateway_of(two.bench, two.host) as gateway, socket.create_server(("", 0)) as every:
        port = every.getsockname()[1]
        others = [address for address in host_addresses() if address != two.host]
        assert others
        assert reached(two.attacker, ("", two.host, two.bench.settings.gateway_port)) == [two.host]
        assert reached(two.attacker, ("", two.host, port)) == []
        # Some engines give it a route to everywhere, others none.
        beside(two.attacker, "ip", "route", "replace", "default", "via", two.host)
        beyond = [("", address, p) for address in others for p in (port, gateway.port)]
        beyond += [("", two.host, port), ("", "1.1.1.1", 443)]
        assert reached(two.attacker, *beyond, rights=True) == []
        socket.create_connection((two.host, port), timeout=5).close()  # they are there
        socket.create_connection((others[0], port), timeout=5).close()
    assert gateway.seen == [two.attacker.address]


def host_addresses() -> list[str]:
    listed = subprocess.run(["ip", "-j", "-4", "addr"], capture_output=True, check=True).stdout
    return [
        address["local"]
        for interface in json.loads(listed)
        for address in interface["addr_info"]
        if address["local"] != "127.0.0.1"
    ]


@as_root
def test_the_agents_user_cannot_pose_as_a_neighbour(two: Two) -> None:
    with gateway_of(two.bench, two.host) as gateway:
        place = (two.host, str(two.bench.settings.gateway_port))
        assert two.victim.address
        said = json.loads(inside(two.attacker, "python3", "-c", POSE, *place, two.victim.address))
        assert len(said) == 6
        assert "done" not in said.values(), said
    assert gateway.seen == []


@as_root
def test_nor_can_root_in_its_network(two: Two) -> None:
    """Address, MAC and routes taken over, and announced."""
    attacker, victim = two.attacker, two.victim
    assert victim.address
    port = two.bench.settings.gateway_port
    names = (mac(attacker), mac(victim), victim.address, two.host)
    with gateway_of(two.bench, two.host) as gateway:
        beside(attacker, "ip", "addr", "add", f"{victim.address}/32", "dev", "eth0")
        try:
            for address in (mac(victim), mac(attacker)):
                beside(attacker, "ip", "link", "set", "eth0", "address", address)
                beside(attacker, sys.executable, "-c", FORGE, *names)
                assert reached(attacker, (victim.address, two.host, port), rights=True) == []
                beside(attacker, sys.executable, "-c", FORGE, *names)
                assert answers(victim)  # and what is sent to them goes to them
        finally:
            beside(attacker, "ip", "link", "set", "eth0", "address", mac(attacker))
            beside(attacker, "ip", "addr", "del", f"{victim.address}/32", "dev", "eth0")
        assert gateway.seen == []
        assert reached(victim, ("", two.host, port)) == [two.host]
        assert reached(attacker, ("", two.host, port)) == [two.host]
    assert gateway.seen == [victim.address, attacker.address]


@as_root
def test_neighbours_do_not_meet_by_any_protocol(two: Two) -> None:
    victim = two.victim
    assert victim.address
    for one in (two.attacker, victim):  # a sandbox has none: it is switched off
        beside(one, "sysctl", "-q", "-w", "net.ipv6.conf.eth0.disable_ipv6=0")
    link_local = json.loads(beside(victim, "ip", "-j", "-6", "addr", "show", "dev", "eth0"))
    host = json.loads(subprocess.check_output(["ip", "-j", "-6", "addr", "show", "dev", two.table]))
    targets = [("", victim.address, 3000)]
    for interface, port in ((link_local, 3000), (host, two.bench.settings.gateway_port)):
        targets += [("", f"{a['local']}%eth0", port) for a in interface[0]["addr_info"]]
    assert len(targets) == 3
    with socket.create_server(("::", two.bench.settings.gateway_port), family=socket.AF_INET6):
        assert reached(two.attacker, *targets, rights=True) == []
    neighbours = beside(two.attacker, "ip", "neigh", "show", "nud", "reachable")
    assert victim.address not in neighbours
    assert link_local[0]["addr_info"][0]["local"] not in neighbours


@as_root
@pytest.mark.asyncio(loop_scope="module")
async def test_it_comes_back_when_somebody_takes_it_away(two: Two) -> None:
    backend, other = two.bench.backend, two.bench.again()
    place = ("", two.host, two.bench.settings.gateway_port)
    assert not (await backend.keep_firewall()).restored
    changes = (
        f"delete table inet {two.table}\ndelete table bridge {two.table}",
        f"flush chain inet {two.table} to_host",
        f"flush set bridge {two.table} bound\nflush set bridge {two.table} ports",
        f"insert rule bridge {two.table} of_sandbox accept",
    )
    with socket.create_server(("", 0)) as every, gateway_of(two.bench, two.host):
        closed = ("", two.host, every.getsockname()[1])
        for change in changes:
            await nft.load(change)
            assert (await backend.keep_firewall()).restored, change
            assert not (await backend.keep_firewall()).restored
            assert reached(two.attacker, place) == [two.host]
        option = Path(f"/sys/class/net/{two.table}/bridge/no_linklocal_learn")
        option.write_text("0")
        assert (await backend.keep_firewall()).restored
        assert option.read_text() == "1\n"
        # By a process that never saw it whole, and has to ask the engine who is where.
        await nft.load(changes[0])
        assert reached(two.attacker, closed) == [two.host]  # what it keeps from
        try:
            await other.prepare()
            assert reached(two.attacker, place) == []  # not let in yet
            assert (await other.keep_firewall()).warning == ""
            assert reached(two.attacker, place, closed) == [two.host]
            assert not (await backend.keep_firewall()).restored
        finally:
            await other.close()


@as_root
@pytest.mark.asyncio(loop_scope="module")
async def test_a_second_life_at_the_same_address(two: Two) -> None:
    """A container started again by hand has another cable and the same address."""
    await asyncio.to_thread(docker, "restart", "-t", "0", two.victim.handle)
    assert await two.bench.backend.keep_firewall()
    again = await two.bench.backend.inspect(two.victim.handle)
    assert again is not None
    places = await nft.table("bridge", two.table)
    assert places is not None
    assert str(places).count("concat") >= 2
    await eventually(lambda: asyncio.to_thread(answers, again))


@as_root
@pytest.mark.asyncio(loop_scope="module")
async def test_a_sandbox_that_ends_at_once_is_told_as_ended(two: Two) -> None:
    made = await two.bench.backend.create(two.bench.spec("exit 3"))
    for _ in range(2):
        assert (await two.bench.backend.start(made.handle)).state in {"running", "exited"}
    await two.bench.backend.destroy(made.handle)


@as_root
@pytest.mark.asyncio(loop_scope="module")
async def test_what_others_change_meanwhile_is_no_reason_to_give_up(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = nft.load
    failures = [0]

    async def breaks(text: str) -> None:
        if failures[0]:
            failures[0] -= 1
            raise BackendError("The host's packet filter refused: No such file or directory")
        await load(text)

    monkeypatch.setattr(nft, "load", breaks)
    other = two.bench.again()
    made = await other.create(two.bench.spec())
    try:
        failures[0] = 1
        await other.prepare()
        assert (await other.capabilities()).firewall_warning == ""
        failures[0] = 100
        await load(ruleset.remove(two.table))
        await other.prepare()
        assert "No such file" in (await other.capabilities()).firewall_warning
        failures[0] = 0  # and a sandbox that is started later is let in all the same
        started = await other.start(made.handle)
        place = ("", two.host, two.bench.settings.gateway_port)
        with gateway_of(two.bench, two.host) as gateway:
            assert reached(started, place) == [two.host]
            assert gateway.seen == [started.address]
        assert (await other.keep_firewall()).warning == ""
        assert not (await two.bench.backend.keep_firewall()).warning
    finally:
        await other.destroy(made.handle)
        await other.close()


@as_root
@pytest.mark.asyncio(loop_scope="module")
async def test_it_goes_with_the_network(two: Two) -> None:
    other = DockerBackend(Settings(data_dir=two.bench.settings.data_dir / "other"))
    name = f"hutch-{other._settings.instance}"
    await other.prepare()
    assert await nft.table("inet", name)
    await other.cleanup()
    await other.close()
    assert (await nft.table("inet", name), await nft.table("bridge", name)) == (None, None)
    assert await nft.table("inet", two.table)  # another's is left alone


@as_root
def test_without_the_right_to_it_there_is_a_warning(two: Two) -> None:
    code = (
        "import asyncio, sys\n"
        "from ipaddress import IPv4Address, IPv4Network\n"
        "from hutch.backends.firewall import Firewall\n"
        "from hutch.backends.ruleset import Bridge\n"
        "async def main():\n"
        "    wall = Firewall()\n"
        "    await wall.put_up(Bridge(sys.argv[1], IPv4Network('10.9.0.0/16'),"
        " IPv4Address('10.9.0.1'), 8485))\n"
        "    print(wall.up, wall.warning)\n"
        "asyncio.run(main())"
    )
    argv = ["setpriv", "--bounding-set=-net_admin", sys.executable, "-c", code, two.table]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("False ")
    assert "CAP_NET_ADMIN" in done.stdout


HOST = Bridge("hutch-a", IPv4Network("10.9.0.0/16"), IPv4Address("10.9.0.1"), 8485)


@given(st.text(max_size=20), st.text(max_size=20))
def test_nothing_but_names_gets_into_the_text(name: str, other: str) -> None:
    texts: list[Callable[[], str]] = [
        lambda: ruleset.remove(name),
        lambda: ruleset.load(Bridge(name, HOST.subnet, HOST.host, 1), []),
        lambda: ruleset.load(HOST, [Place(name, other, HOST.host)]),
    ]
    for make in texts:
        with contextlib.suppress(BackendError):
            make()
            assert set(name) <= set(string.ascii_letters + string.digits + "-_.")


@as_root
@pytest.mark.parametrize(
    ("iptables", "answer"), [("iptables", "REJECT"), ("iptables-legacy", "DROP")]
)
def test_another_firewall_that_is_in_the_way_is_found(two: Two, iptables: str, answer: str) -> None:
    settings = two.bench.settings.model_copy(update={"image": IMAGE})
    rule = ("INPUT", "-i", two.table, "-j", answer)
    subprocess.run([iptables, "-I", *rule], check=True, capture_output=True)
    try:
        finding = asyncio.run(firewall.check(settings))
    finally:
        subprocess.run([iptables, "-D", *rule], check=True, capture_output=True)
    assert not finding.ok
    assert "another firewall" in finding.detail
    assert f"{two.table} " in finding.remedy[0]
    assert str(settings.gateway_port) in finding.remedy[0]


@as_root
@pytest.mark.asyncio(loop_scope="module")
async def test_doctor_tries_it_from_inside(two: Two) -> None:
    settings = two.bench.settings.model_copy(update={"image": IMAGE})
    finding = await firewall.check(settings)
    assert finding.ok, finding
    assert f"{two.host} port {settings.gateway_port} alone" in finding.detail
    for change, said in (
        (f"flush chain inet {two.table} to_host", "other ports"),
        (f"delete table bridge {two.table}", "are gone"),
    ):
        await nft.load(change)
        finding = await firewall.check(settings)
        assert (finding.ok, said in finding.detail) == (False, True), finding
        assert (await two.bench.backend.keep_firewall()).restored


def test_sets_are_declared_as_every_nft_can_read_them() -> None:
    """Several versions may meet on a machine; by `type`, what 1.1 made crashes 1.0.6."""
    lines = [line.strip() for line in ruleset.load(HOST, []).splitlines()]
    declared = [lines[n + 1] for n, line in enumerate(lines) if line.startswith("set ")]
    assert len(declared) == 2
    assert all(line.startswith("typeof ") for line in declared)
