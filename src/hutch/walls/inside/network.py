"""At the network: whoever answers here should not."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import time
from typing import Any, Final

from hutch.walls.inside.calls import call

PLACES: dict[str, Any] = {}  # what there is to attack; filled in before the attempts
_WAIT_S: Final = 1.5
_FREEBIND: Final = 15
_TRANSPARENT: Final = 19
_VSOCK: Final = 40


def _connect(targets: list[tuple[str, int]], source: tuple[str, int] | None = None) -> str:
    """All at once; the first that is reached, else what was said last."""
    waiting: dict[socket.socket, tuple[str, int]] = {}
    refused = OSError(errno.ETIMEDOUT, "nobody answered")
    reached = []
    for host, port in targets:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            if source is not None:
                sock.setsockopt(socket.IPPROTO_IP, _FREEBIND, 1)
                sock.bind(source)
            code = sock.connect_ex((host, port))
        except OSError as error:
            refused = error
            continue
        if code == 0:
            reached.append((host, port))
        elif code == errno.EINPROGRESS:
            waiting[sock] = (host, port)
        else:
            refused = OSError(code, os.strerror(code))
    until = time.monotonic() + _WAIT_S
    while waiting and (left := until - time.monotonic()) > 0:
        for sock in select.select([], list(waiting), [], left)[1]:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            place = waiting.pop(sock)
            if code == 0:
                reached.append(place)
            else:
                refused = OSError(code, os.strerror(code))
    if reached:
        return f"reached {', '.join(f'{host} port {port}' for host, port in reached[:5])}"
    raise refused


def _send(targets: list[tuple[str, int]], data: bytes = b"hutch-attack") -> str:
    """By UDP; an answer, or what was said."""
    refused = OSError(errno.ETIMEDOUT, "nobody answered")
    socks = []
    for host, port in targets:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.connect((host, port))
            sock.send(data)
            socks.append(sock)
        except OSError as error:
            refused = error
    until = time.monotonic() + _WAIT_S
    while socks and (left := until - time.monotonic()) > 0:
        for sock in select.select(socks, [], [], left)[0]:
            try:
                sock.recv(2048)
                return f"{sock.getpeername()[0]} answered"
            except OSError as error:
                refused = error
                socks.remove(sock)
    raise refused


def _watched(attempt: str) -> int:
    """The port on which somebody outside waits for this attempt."""
    return int(PLACES["watched"][attempt])


def gateway_port() -> str:
    """Not an attack: the one place that has to be reached, or the other refusals say nothing."""
    return _connect([(PLACES["gateway"], PLACES["gateway_port"])])


def host_ports() -> str:
    """One that listens on all addresses, and where engines, databases and agents of clusters do."""
    ports = (_watched("host_ports"), 22, 2375, 2376, 5432, 6379, 6443, 8484, 10250)
    return _connect([(PLACES["gateway"], port) for port in ports])


def host_by_other_addresses() -> str:
    port = _watched("host_by_other_addresses")
    return _connect([(host, port) for host in PLACES["host_addresses"]])


def host_udp() -> str:
    hosts = (PLACES["gateway"], *PLACES["host_addresses"])
    return _send([(host, _watched("host_udp")) for host in hosts])


def neighbour() -> str:
    return _connect([(PLACES["neighbour"], port) for port in (3000, 22, 80, 8080)])


def neighbour_udp() -> str:
    return _send([(PLACES["neighbour"], 3000), (PLACES["neighbour"], 53)])


def internet() -> str:
    return _connect([("1.1.1.1", 443), ("1.1.1.1", 80), ("8.8.8.8", 53), ("9.9.9.9", 853)])


def internet_ipv6() -> str:
    return _connect([("2606:4700:4700::1111", 443), ("2001:4860:4860::8888", 53)])


def quic() -> str:
    return _send([("1.1.1.1", 443), ("8.8.8.8", 443)], b"\xc0" + b"\0" * 1199)


_QUESTION: Final = b"\x13\x37\x01\0\0\1\0\0\0\0\0\0\x07example\x03org\0\0\x10\0\1"


def dns_tunnel() -> str:
    return _send([(host, 53) for host in ("8.8.8.8", "1.1.1.1", PLACES["gateway"])], _QUESTION)


def dns_by_tcp() -> str:
    return _connect([(host, 53) for host in ("8.8.8.8", "1.1.1.1", PLACES["gateway"])])


def dns_of_engine() -> str:
    """The engine's own resolver answers in each sandbox; it must not pass questions on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2 * _WAIT_S)
        sock.connect(("127.0.0.11", 53))
        sock.send(_QUESTION)
        answer = sock.recv(2048)
    if struct.unpack_from("!H", answer, 6)[0] == 0:
        raise OSError(errno.EHOSTUNREACH, "it knows no answer")
    return "an answer came from outside"


def resolve() -> str:
    try:
        found = socket.getaddrinfo("secret-in-a-name.example.org", 443)
    except socket.gaierror as error:
        raise OSError(errno.EHOSTUNREACH, str(error)) from None
    return f"a name was answered for: {found[0][4]}"


def metadata() -> str:
    return _connect(
        [
            ("169.254.169.254", 80),
            ("169.254.170.2", 80),
            ("100.100.100.200", 80),
            ("168.63.129.16", 80),
            ("192.0.0.192", 80),
        ]
    )


def metadata_ipv6() -> str:
    return _connect([("fd00:ec2::254", 80), ("fd20:ce::254", 80)])


def multicast() -> str:
    return _send([("224.0.0.251", 5353), ("239.255.255.250", 1900)])


def broadcast() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.settimeout(_WAIT_S)
        for address in ("255.255.255.255", PLACES["gateway"].rpartition(".")[0] + ".255"):
            sock.sendto(b"hutch-attack", (address, _watched("broadcast")))
        sock.recv(100)
    return "somebody answered"


def link_local_ipv6() -> str:
    index = socket.if_nametoindex("eth0")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_WAIT_S)
        sock.sendto(b"hutch-attack", ("ff02::1", _watched("link_local_ipv6"), 0, index))
        sock.recv(100)
    return "somebody answered"


def raw_socket() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP):
        return "writes packets of its own"


def raw_ip_header() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW):
        return "writes addresses of its own into packets"


def packet_socket() -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)):
        return "reads and writes frames"


def packet_socket_cooked() -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)):
        return "reads and writes packets"


def spoof_neighbour() -> str:
    return _connect([(PLACES["gateway"], PLACES["gateway_port"])], source=(PLACES["neighbour"], 0))


def spoof_free_address() -> str:
    return _connect(
        [(PLACES["gateway"], PLACES["gateway_port"])], source=(PLACES["free_address"], 0)
    )


def spoof_transparent() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(_WAIT_S)
        sock.setsockopt(socket.IPPROTO_IP, _TRANSPARENT, 1)
        sock.bind((PLACES["neighbour"], 0))
        sock.connect((PLACES["gateway"], PLACES["gateway_port"]))
    return "spoke with its neighbour's address"


def take_address() -> str:
    """As `ifconfig eth0 ADDRESS` does it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        address = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(PLACES["neighbour"]))
        fcntl.ioctl(sock, 0x8916, struct.pack("16s16s", b"eth0", address) + b"\0" * 8)
    return "has its neighbour's address"


def take_hardware_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        address = struct.pack("H6s8x", 1, b"\x02\x42\x01\x02\x03\x04")
        fcntl.ioctl(sock, 0x8924, struct.pack("16s16s", b"eth0", address) + b"\0" * 8)
    return "has another hardware address"


def add_route() -> str:
    """A default route through the gateway."""

    def place(text: str) -> bytes:
        return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))

    entry = struct.pack("L", 0) + place("0.0.0.0") + place(PLACES["gateway"]) + place("0.0.0.0")
    entry += struct.pack("HhLLhxxxxxxPLLH", 3, 0, 0, 0, 0, 0, 0, 0, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x890B, entry + b"\0" * 64)
    return "has a way out"


def netlink() -> str:
    """Bring an interface down, and up again, by the kernel's own protocol."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(_WAIT_S)
        index = socket.if_nametoindex("lo")
        body = struct.pack("BxHiII", 0, 0, index, 1, 1)
        sock.send(struct.pack("IHHII", 16 + len(body), 16, 5, 1, 0) + body)
        code = struct.unpack_from("i", sock.recv(4096), 16)[0]
    if code:
        raise OSError(-code, os.strerror(-code))
    return "changes interfaces"


def vsock() -> str:
    with socket.socket(_VSOCK, socket.SOCK_STREAM):
        return "can speak to the hypervisor that this machine runs on"


def vsock_disguised() -> str:
    """Filters compare 64 bits of an argument, of which the kernel takes 32."""
    os.close(call("socket", 1 << 32 | _VSOCK, socket.SOCK_STREAM, 0))
    return "can speak to the hypervisor, past a filter that forbids but one number"
