"""What commands in a sandbox may reach: the allowed hosts; and what they are told otherwise."""

from __future__ import annotations

import functools
import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hutch_runtime.protocol import PROVIDERS, Provider
from tests.service import Service, User, running_service

# Stands for a host on the internet: curl takes NO_PROXY's 127.0.0.1 for that address alone.
OUTSIDE = "127.0.0.88"


@dataclass(frozen=True, slots=True)
class Server:
    tls: int
    plain: int
    denied: int


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A repository and a file: over TLS, plain HTTP, and over TLS at a port not allowed."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "file").write_text("from outside")
    _repository(folder)
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=outside", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    servers = [http.server.ThreadingHTTPServer((OUTSIDE, 0), handler) for _ in range(3)]
    for one in (servers[0], servers[2]):
        one.socket = context.wrap_socket(one.socket, server_side=True)
    for one in servers:
        threading.Thread(target=one.serve_forever, daemon=True).start()
    yield Server(*(one.server_port for one in servers))
    for one in servers:
        one.shutdown()
        one.server_close()


def _repository(folder: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(
            ["git", *identity, "-C", str(folder / "work"), *arguments],
            check=True, capture_output=True, timeout=30,
        )  # fmt: skip

    (folder / "work").mkdir()
    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "first")
    git("clone", "-q", "--bare", ".", str(folder / "repository.git"))
    subprocess.run(
        ["git", "-C", str(folder / "repository.git"), "update-server-info"], check=True, timeout=30
    )


@pytest.fixture(scope="module")
def service(
    image: str, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    with running_service(
        tmp_path_factory.mktemp("network"),
        ISOLATION="gvisor",
        IMAGE=image,
        EGRESS_ALLOW=f"{OUTSIDE}:{server.tls},{OUTSIDE}:{server.plain}",
        EGRESS_NETWORKS=f"{OUTSIDE}/32",
    ) as running:
        yield running


@pytest.fixture(scope="module")
def user(service: Service) -> User:
    return service.make_user()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_commands_reach_what_is_allowed(user: User, server: Server, provider: Provider) -> None:
    for url in (f"https://{OUTSIDE}:{server.tls}", f"http://{OUTSIDE}:{server.plain}"):
        assert "from outside" in user.shell(provider, f"curl -sk {url}/file")
        said = user.shell(
            provider, f"git -c http.sslVerify=false ls-remote {url}/repository.git | cut -c 42-"
        )
        assert "refs/heads/main" in said


def test_what_is_not_allowed_is_named_with_what_to_do(user: User, server: Server) -> None:
    place = f"{OUTSIDE}:{server.denied}"
    fetch = f"curl -skv https://{place}/file 2>&1 | grep -o 'HTTP/1.1 403.*'"
    said = user.shell("claude", fetch)
    assert f"403 hutch gateway: {place} is not on the list of allowed hosts" in said
    assert "PUT /v1/network" in said
    said = user.shell("claude", f"git ls-remote https://{place}/repository.git 2>&1")
    assert "403" in said
    # As told, and at once.
    user.client.call("PUT", "/v1/network", json={"allow": [place]})
    assert "from outside" in user.shell("claude", f"curl -sk https://{place}/file")
    user.client.call("PUT", "/v1/network", json={"allow": []})
    assert "403" in user.shell("claude", fetch)


def test_the_host_itself_is_not_reached(user: User, service: Service) -> None:
    """Neither the API beside the gateway nor a metadata service, though a user allows them."""
    places = [f"127.0.0.3:{service.settings.port}", "169.254.169.254:80",
              f"{service.address}:{service.settings.port}"]  # fmt: skip
    user.client.call("PUT", "/v1/network", json={"allow": places})
    for place in places[:2]:
        said = user.shell("claude", f"curl -s http://{place}/health")
        assert "not on the open internet" in said
    user.client.call("PUT", "/v1/network", json={"allow": []})


def test_without_the_proxy_there_is_no_way(user: User, server: Server) -> None:
    said = user.shell(
        "claude", f"curl -sk -m 3 --noproxy '*' https://{OUTSIDE}:{server.tls}/file; echo rc=$?"
    )
    assert "from outside" not in said
    assert "rc=0" not in said
