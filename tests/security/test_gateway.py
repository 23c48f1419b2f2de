"""The gateway, from inside a sandbox that it knows: what is refused, and that nothing arrives."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.security.conftest import Attempt, Hall
from tests.service import User, fingerprint

# Each in a thread of its own: what is sent, and what came back within two seconds.
SEND = r"""
import base64, json, socket, sys, threading
host, port, requests = json.load(sys.stdin)
answers = {}
def send(name, text):
    answer = b""
    try:
        with socket.create_connection((host, port), 5) as sock:
            sock.sendall(base64.b64decode(text))
            sock.settimeout(2)
            while len(answer) < 20000:
                piece = sock.recv(4096)
                if not piece:
                    break
                answer += piece
    except OSError:
        pass
    answers[name] = base64.b64encode(answer).decode()
threads = [threading.Thread(target=send, args=one) for one in requests]
[t.start() for t in threads]; [t.join() for t in threads]
print(json.dumps(answers))
"""


@dataclass
class Witness:
    """Listens on loopback, and on the address that sandboxes know; nobody may come."""

    port: int
    came: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def witness() -> Iterator[Witness]:
    with socket.create_server(("", 0)) as listener:
        one = Witness(listener.getsockname()[1])

        def listen() -> None:
            while True:
                try:
                    connection, (source, *_) = listener.accept()
                except OSError:
                    return
                one.came.append(str(source))
                connection.close()

        threading.Thread(target=listen, daemon=True).start()
        yield one
        listener.shutdown(socket.SHUT_RDWR)


def ask(hall: Hall, user: User, requests: dict[str, bytes]) -> dict[str, bytes]:
    encoded = [(name, base64.b64encode(text).decode()) for name, text in requests.items()]
    place = (hall.service.address, hall.service.settings.gateway_port)
    said = user.python(SEND, stdin=[*place, encoded])
    return {name: base64.b64decode(answer) for name, answer in said.items()}


# What leads to the host, its network, or to services of a cloud; PORT is the witness's.
DESTINATIONS = (
    *("127.0.0.1:PORT", "localhost:PORT", "LOCALHOST:PORT", "localhost.:PORT", "127.0.0.1.:PORT"),
    *("2130706433:PORT", "0x7f000001:PORT", "0x7f.0.0.1:PORT", "017700000001:PORT"),
    *(
        "0177.0.0.1:PORT",
        "127.1:PORT",
        "127.0.1:PORT",
        "0:PORT",
        "0.0.0.0:PORT",
        "127.0.0.1%00:PORT",
    ),
    *("[::1]:PORT", "[::]:PORT", "[::ffff:127.0.0.1]:PORT", "[::ffff:7f00:1]:PORT"),
    *(
        "[64:ff9b::7f00:1]:PORT",
        "[2002:7f00:1::]:PORT",
        "[::127.0.0.1]:PORT",
        "[fe80::1%eth0]:PORT",
    ),
    *(
        "github.com@127.0.0.1:PORT",
        "127.0.0.1:PORT@github.com:443",
        "github.com:443@127.0.0.1:PORT",
    ),
    *(
        "127.0.0.1:PORT#github.com:443",
        "127.0.0.1:PORT/github.com",
        "127.0.0.1:PORT?github.com:443",
    ),
    *("GATEWAY:PORT", "ip6-localhost:PORT", "localhost.localdomain:PORT", "foo.localhost:PORT"),
    *("169.254.169.254:80", "[fd00:ec2::254]:80", "100.100.100.200:80", "2852039166:80"),
    *("metadata.google.internal:80", "0xa9fea9fe:80", "169.254.170.2:80", "168.63.129.16:80"),
    *("10.0.0.1:80", "172.17.0.1:80", "192.168.0.1:80", "[fd00::1]:443", "224.0.0.1:80"),
    *("127.0.0.1:+PORT", "127.0.0.1: PORT", "127.0.0.1:0PORT", "127.0.0.1:PORT:443"),
    *(
        "\u24db\u24de\u24d2alhost:PORT",
        "127\u30020\u30020\u30021:PORT",
        "github.com\t127.0.0.1:PORT",
    ),
)


@pytest.mark.parametrize("form", ["CONNECT", "absolute"])
def test_no_destination_that_is_not_public(
    hall: Hall, witness: Witness, attempt: Attempt, form: str
) -> None:
    attempt.tries = f"{len(DESTINATIONS)} private, encoded and disguised addresses, {form}"
    user = hall.user("a")
    allow_what_can_be(user, witness)
    requests = {}
    for text in DESTINATIONS:
        place = text.replace("PORT", str(witness.port)).replace("GATEWAY", hall.service.address)
        line = f"CONNECT {place}" if form == "CONNECT" else f"GET http://{place}/"
        head = f"{line} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n"
        requests[text] = head.encode()
    answers = ask(hall, user, requests)
    for text, answer in answers.items():
        assert not answer.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2")), (text, answer)
        assert b"\nHTTP/1." not in answer, (text, answer)
    assert witness.came == []
    refused = sum(answer.startswith(b"HTTP/1.1 4") for answer in answers.values())
    attempt.came = f"{refused} refused, the rest closed or unknown; nobody came"


def allow_what_can_be(user: User, witness: Witness) -> None:
    """Names on the user's own list do not open what is private."""
    rules = []
    for host in ("127.0.0.1", "localhost", "*.localhost.localdomain", "[::1]", "10.0.0.1"):
        try:
            user.client.call("PUT", "/v1/network", json={"allow": [f"{host}:{witness.port}"]})
            rules.append(f"{host}:{witness.port}")
        except Exception:  # noqa: BLE001, S112  what cannot be allowed is refused all the more
            continue
    user.client.call("PUT", "/v1/network", json={"allow": rules})


SMUGGLED = b"GET /claude/v1/smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /claude/v1/messages HTTP/1.1\r\nHost: h\r\n"
FRAMINGS = {
    "CL.TE": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE.CL": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE.TE": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n" + SMUGGLED,
    "a list of lengths": POST + b"Content-Length: 0, 44\r\n\r\n" + SMUGGLED,
    "length with a sign": POST + b"Content-Length: +0\r\n\r\n" + SMUGGLED,
    "space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "folded header": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "bare line feed": POST.replace(b"\r\n", b"\n") + b"Content-Length: 0\n\n" + SMUGGLED,
    "bare carriage return": POST + b"X: a\rContent-Length: 44\r\n\r\n" + SMUGGLED,
    "NUL": POST + b"X: a\x00\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
    "chunk of a huge size": POST
    + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n"
    + SMUGGLED,
    "chunk with a sign": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + SMUGGLED,
    "injected header": b"GET /claude/v1/models%0d%0aX-Api-Key:%20mine HTTP/1.1\r\nHost: h\r\n\r\n",
    "header in the target": b"GET /claude/x HTTP/1.1\r\nX-Api-Key: mine HTTP/1.1\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "HTTP/0.9": b"GET /claude/v1/models\r\n",
    "SOCKS": b"\x05\x01\x00",
    "the control socket": b"PUT /table HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}",
    "TRACE": b"TRACE /claude/v1/models HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    "climbing": b"GET /claude/../../admin HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    "encoded climbing": b"GET /claude/%2e%2e/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
}


def test_no_request_in_another(hall: Hall, attempt: Attempt) -> None:
    attempt.tries = f"{len(FRAMINGS)} smuggled requests, injected headers and other protocols"
    user, other = hall.user("a"), hall.user("b")
    for name, answer in ask(hall, user, FRAMINGS).items():
        assert answer.count(b"HTTP/1.1 2") == 0, (name, answer)
        for whose in (user, other):
            for key in whose.provider_keys.values():
                assert key.encode() not in answer
                assert fingerprint(key).encode() not in answer
    log = (hall.service.settings.logs_dir / "gateway.log").read_text().splitlines()
    served = [json.loads(line) for line in log if line.startswith("{")]
    assert not any("smuggled" in str(line.get("path")) for line in served)
    attempt.came = "refused, or answered once with an error"


SLOW = r"""
import json, socket, sys, time
host, port, count, seconds = json.load(sys.stdin)
socks = []
for number in range(count):
    try:
        sock = socket.create_connection((host, port), 1)
        sock.sendall(b"POST /claude/v1/messages HTTP/1.1\r\nHost: h\r\nX: ")
        socks.append(sock)
    except OSError:
        break
until, open_ = time.monotonic() + seconds, 0
while time.monotonic() < until:
    open_ = 0
    for sock in socks:
        try:
            sock.sendall(b"a")
            open_ += 1
        except OSError:
            pass
    time.sleep(0.2)
print(json.dumps([len(socks), open_]))
"""


def test_slow_heads_and_many_connections(hall: Hall, attempt: Attempt) -> None:
    """300 at once, each with a byte now and then; others go on."""
    attempt.tries = "300 connections that send their heads byte by byte (slowloris)"
    user, other = hall.user("a"), hall.user("b")
    place = (hall.service.address, hall.service.settings.gateway_port)
    answers: list[object] = []
    flood = threading.Thread(
        target=lambda: answers.append(user.python(SLOW, stdin=[*place, 300, 6]))
    )
    flood.start()
    for _ in range(2):
        assert other.run("codex", "still there?")["state"] == "succeeded"
    flood.join(60)
    assert answers
    attempt.came = f"opened, and still open in the end: {json.dumps(answers[0])}; others answered"
    most = hall.service.settings.egress_connections
    assert answers[0][1] <= most  # type: ignore[index]
    assert user.run("codex", "and I")["state"] == "succeeded"
