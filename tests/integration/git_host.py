"""A git host: ``git http-backend`` behind TLS, for those who bring the token."""

from __future__ import annotations

import base64
import http.server
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOKEN = "ghp_token-of-the-users-3f9e1c07"
_BACKEND = "/usr/lib/git-core/git-http-backend"
_LARGE = 70 << 20  # more than a workspace holds


@dataclass(frozen=True, slots=True)
class GitHost:
    place: str  # host:port
    repository: Path  # bare
    certificate: Path

    @property
    def url(self) -> str:
        return f"https://{self.place}/team/letters.git"

    def git(self, *arguments: str) -> str:
        return _git(self.repository, *arguments)


@contextmanager
def serving(folder: Path, address: str) -> Iterator[GitHost]:
    bare = _repository(folder)
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=git", "-addext", f"subjectAltName=IP:{address}",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    wanted = "Basic " + base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve(b"")

        def do_POST(self) -> None:
            if self.headers["transfer-encoding"] == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers["content-length"]))
            self._serve(body)

        def _serve(self, body: bytes) -> None:
            if self.headers["authorization"] != wanted:
                self._answer(401, [("www-authenticate", 'Basic realm="git"')], b"")
                return
            path, _, query = self.path.partition("?")
            environment = {
                **os.environ,
                "GIT_PROJECT_ROOT": str(folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers["content-type"] or "",
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers["content-encoding"] or "",
                "GIT_PROTOCOL": self.headers["git-protocol"] or "",
                "REMOTE_USER": "somebody",
                "REMOTE_ADDR": "127.0.0.1",
            }
            done = subprocess.run(
                [_BACKEND], input=body, env=environment, capture_output=True, check=False
            )
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            fields = [line.split(": ", 1) for line in head.decode().split("\r\n") if line]
            given = {name.lower(): value for name, value in fields}
            status = int(given.pop("status", "200").split()[0])
            self._answer(status, list(given.items()), content)

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Not into the tests' output."""

    server = http.server.ThreadingHTTPServer((address, 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield GitHost(f"{address}:{server.server_port}", bare, certificate)
    server.shutdown()
    server.server_close()


def _git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(
        ["git", *identity, "-C", str(folder), *arguments],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.stdout.strip()


def _repository(folder: Path) -> Path:
    """Branches: main with two commits, and hostile, whose submodule is a command. Beside it is
    large.git.
    """
    work, bare = folder / "work", folder / "team" / "letters.git"
    work.mkdir()
    bare.parent.mkdir()
    _git(work, "init", "-q", "-b", "main")
    for text in ("first", "second"):
        (work / "letter.txt").write_text(text)
        _git(work, "add", ".")
        _git(work, "commit", "-q", "-m", text)
    _git(work, "checkout", "-q", "-b", "hostile")
    command = "ext::sh -c touch% /workspace/owned"
    (work / ".gitmodules").write_text(f'[submodule "s"]\n\tpath = s\n\turl = {command}\n')
    _git(
        work, "update-index", "--add", "--cacheinfo", f"160000,{_git(work, 'rev-parse', 'HEAD')},s"
    )
    _git(work, "add", ".gitmodules")
    _git(work, "commit", "-q", "-m", "hostile")
    _git(work, "checkout", "-q", "-f", "main")
    _git(work, "clone", "-q", "--bare", ".", str(bare))
    _git(bare, "config", "http.receivepack", "true")
    (work / "large.bin").write_bytes(os.urandom(_LARGE))
    _git(work, "add", "large.bin")
    _git(work, "commit", "-q", "-m", "large")
    _git(work, "clone", "-q", "--bare", ".", str(bare.with_name("large.git")))
    return bare
