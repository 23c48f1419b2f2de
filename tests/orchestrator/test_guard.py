"""What every answer carries, which pages may ask, and how much a request may have."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import re
import ssl
import subprocess
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from hutch.accounts.sources import Sources
from hutch.api import limits
from hutch.api.guard import guarded
from hutch.api.heads import HEAD_MAX_BYTES, HEADERS_MAX
from hutch.cli.tls import Certificate
from hutch.config import Settings
from hutch.errors import HostNotReady
from tests.orchestrator.conftest import Api

ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


async def test_every_answer_carries_them(api: Api, key: str) -> None:
    run = {"provider": "claude", "prompt": "a", "stream": True}
    for method, path, options, status in (
        ("GET", "/v1/runs", {}, 200),
        ("GET", "/nope", {}, 404),
        ("POST", "/v1/runs", {"json": run}, 200),
        ("GET", "/healthz", {}, 200),
        ("GET", "/docs", {}, 200),
        ("PUT", "/v1/network", {"data": io.BytesIO(b"x" * (limits.BODY_MAX_BYTES + 1))}, 413),
    ):
        assert (await api(method, path, key, **options))[0] == status
        for name, value in ALWAYS.items():
            assert api.headers[name] == value, path
            assert len(api.headers.getall(name)) == 1, path  # type: ignore[attr-defined]  # aiohttp's
        assert "default-src 'none'" in api.headers["content-security-policy"]
        assert "strict-transport-security" not in api.headers


async def test_the_page_runs_nothing_and_names_no_other_host(api: Api) -> None:
    _, page = await api("GET", "/docs")
    policy = dict(part.split(" ", 1) for part in api.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert "script-src" not in policy
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy["style-src"] == f"'sha256-{digest}'"

    class Links(HTMLParser):
        to: ClassVar[set[str]] = set()
        ids: ClassVar[set[str]] = set()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            given = dict(attrs)
            assert tag not in {"script", "link", "img", "iframe", "object", "form", "base"}
            assert not {"src", "style", "srcset", "action"} & set(given)
            assert not [name for name in given if name.startswith("on")]
            self.to.add(given.get("href") or "")
            self.ids.add(given.get("id") or "")

    Links().feed(page)
    assert Links.to - {""} - {f"#{name}" for name in Links.ids} == {"/openapi.json"}
    assert (await api("GET", "/redoc"))[0] == 404


async def test_the_page_has_every_endpoint_and_shape(api: Api) -> None:
    _, page = await api("GET", "/docs")
    _, described = await api("GET", "/openapi.json")
    for path, methods in described["paths"].items():
        for method in methods:
            assert f"<b>{method.upper()} {path}</b>" in page
    for name in described["components"]["schemas"]:
        assert f'id="shape-{name}"' in page
    assert "<code>Idempotency-Key</code>" in page


async def test_only_listed_pages_may_ask(api: Api, key: str) -> None:
    wish = {
        "access-control-request-method": "GET",
        "access-control-request-headers": "authorization",
    }
    for origin, allowed in (
        ("https://app.example.org", True),
        ("https://evil.example.org", False),
        ("https://app.example.org.evil.net", False),
        ("null", False),
    ):
        headers = {"origin": origin, **wish}
        status, _ = await api("OPTIONS", "/v1/runs", headers=headers)
        assert (status == 200) == allowed, origin
        await api("GET", "/v1/runs", key, headers={"origin": origin})
        assert api.headers.get("access-control-allow-origin") == (origin if allowed else None)
        assert "access-control-allow-credentials" not in api.headers
    for wrong in ("*", "app.example.org", "https://app.example.org/", "https://*.example.org"):
        with pytest.raises(HostNotReady):
            guarded(nothing, Sources([], b""), [wrong])


async def nothing(*_: object) -> None:
    raise AssertionError("not asked")


async def spoken(api: Api, *parts: bytes) -> bytes:
    """What comes back for bytes that no client library would send."""
    port = urlsplit(api.url).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
    except ConnectionError:  # it has answered, and closed
        pass
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b"reset"
    finally:
        writer.close()


async def test_bodies_are_bounded_on_every_endpoint(api: Api, key: str) -> None:
    async def chunks(size: int) -> AsyncIterator[bytes]:
        for _ in range(0, size, 65536):
            yield b" " * 65536

    large = limits.BODY_MAX_BYTES + 1
    paths = (await api("GET", "/openapi.json"))[1]["paths"]
    for path, methods in paths.items():
        for method in methods:
            if method.upper() == "GET":
                continue
            size = limits.most(method.upper(), path) + 1
            if size > limits.DROPPED_MAX:  # told, not sent
                line = f"{method.upper()} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}"
                told = f"{line}\r\ncontent-length: {size}\r\n\r\n".encode()
                assert (await spoken(api, told)).startswith(b"HTTP/1.1 413 "), path
                continue
            status, answer = await api(method.upper(), path, key, data=io.BytesIO(b" " * size))
            assert (status, answer["error"]["code"]) == (413, "request_too_large"), path
    # Without a length that is told before.
    for path, size in (("/v1/keys", large), ("/v1/runs", limits.RUN_MAX_BYTES + 1)):
        headers = {"content-type": "application/json"}
        status, answer = await api("POST", path, key, data=chunks(size), headers=headers)
        assert (status, answer["error"]["code"]) == (413, "request_too_large"), path
    head = f"POST /v1/keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n".encode()
    huge = head + b"content-length: 99999999999999\r\n\r\n"
    answer = await spoken(api, huge)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer
    # The service is well.
    assert (await api("GET", "/healthz"))[0] == 200


@pytest.mark.parametrize(
    "sent",
    {
        "many": [b"GET /healthz HTTP/1.1\r\n", *[b"a: b\r\n"] * (HEADERS_MAX + 1), b"\r\n"],
        "one that is huge": [b"GET /healthz HTTP/1.1\r\na: ", b"b" * HEAD_MAX_BYTES, b"\r\n\r\n"],
        "one without an end": [b"GET /healthz HTTP/1.1\r\na: ", *[b"b" * 4096] * 128],
        "a line without an end": [b"GET /", *[b"b" * 4096] * 128],
        "the second on a connection": [
            b"POST /healthz HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}",
            b"GET /healthz HTTP/1.1\r\na: ",
            *[b"b" * 4096] * 128,
        ],
    }.items(),
    ids=lambda item: item[0],
)
async def test_heads_are_bounded(api: Api, sent: tuple[str, list[bytes]]) -> None:
    answer = await spoken(api, *sent[1])
    assert answer == b"reset" or b"HTTP/1.1 431 " in answer
    if b"431" in answer:
        assert b'"code": "request_too_large"' in answer
    assert (await api("GET", "/healthz"))[0] == 200


async def test_what_is_not_http_is_refused_in_our_shape(api: Api) -> None:
    answer = await spoken(api, b"\x16\x03\x01 hello\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code": "invalid_request"' in answer
    assert answer.count(b"HTTP/1.1") == 1


async def test_a_kept_connection_takes_large_bodies_in_turn(api: Api, key: str) -> None:
    """What comes after a head does not count as one."""
    body = b'{"name": "' + b" " * (HEAD_MAX_BYTES * 2) + b'x"}'
    one = (
        f"POST /v1/keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    ).encode()
    answer = await spoken(api, one + b"\r\n", body, one + b"connection: close\r\n\r\n", body)
    assert answer.count(b"HTTP/1.1 201 ") == 2


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", str(key)),
            *("-addext", f"subjectAltName=DNS:{name}", "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return cert, key


def test_a_certificate_is_checked_and_renewed(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "one.example")
    settings = Settings(data_dir=tmp_path, tls_cert=cert, tls_key=key)
    assert settings.own_url.startswith("https://")
    ours = Certificate.of(settings)
    assert ours is not None
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(cert, key)
    assert presented(serving, ours.pinned) == ssl.PEM_cert_to_DER_cert(cert.read_text())
    before = cert.read_text()
    cert.write_text(before[: len(before) // 2])  # half written
    ours.renew(serving)
    assert presented(serving, ours.pinned) == ssl.PEM_cert_to_DER_cert(before)
    certificate(tmp_path, "two.example")
    ours.renew(serving)
    assert presented(serving, ours.pinned) == ssl.PEM_cert_to_DER_cert(cert.read_text())
    assert cert.read_text() != before
    for wrong in (
        {"tls_cert": cert},
        {"tls_key": key},
        {"tls_cert": cert, "tls_key": cert},
        {"tls_cert": tmp_path / "nowhere", "tls_key": key},
    ):
        with pytest.raises(HostNotReady):
            Certificate.of(Settings(data_dir=tmp_path, **wrong))  # type: ignore[arg-type]
    assert Certificate.of(Settings(data_dir=tmp_path)) is None


def presented(server: ssl.SSLContext, client: ssl.SSLContext) -> bytes | None:
    """The certificate that a client sees, with no socket between."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (one, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return one.getpeercert(binary_form=True)
