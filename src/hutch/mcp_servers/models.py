from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from hutch.errors import InvalidRequest
from hutch.gateway.names import host_name
from hutch.secrets import Secret

McpKind: TypeAlias = Literal["stdio", "http"]

SERVERS_MAX: Final = 20  # of a user: each is a process, or a connection, of every agent
# What all three CLIs take, and what is a path at the gateway.
NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$"
ARGS_MAX: Final = 64
TEXT_MAX: Final = 4096
PAIRS_MAX: Final = 64
URL_MAX: Final = 2000

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_HEADER_VALUE: Final = re.compile(r"[!-~]+( [!-~]+)*")
# About a connection or its framing, which are the gateway's.
_NOT_HEADERS: Final = frozenset(
    {"connection", "content-length", "cookie", "expect", "host", "keep-alive", "te", "trailer",
     "transfer-encoding", "upgrade"}
)  # fmt: skip
_SMTP: Final = 25  # no sandbox sends mail


@dataclass(frozen=True, slots=True)
class McpServer:
    """A program in the container (``command``), or a server outside (``url``)."""

    name: str
    created_at: float
    updated_at: float
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, Secret] | None = None
    url: str | None = None
    headers: Mapping[str, Secret] | None = None

    @property
    def kind(self) -> McpKind:
        return "http" if self.command is None else "stdio"

    def check(self) -> None:
        """Raises ``InvalidRequest``."""
        for name, value in (self.env or {}).items():
            if not _VARIABLE.fullmatch(name) or "\0" in value.reveal():
                raise InvalidRequest(f"env: {name[:100]!r} is no environment variable.")
        for name, value in (self.headers or {}).items():
            if not _HEADER.fullmatch(name) or name.lower() in _NOT_HEADERS:
                raise InvalidRequest(f"headers: {name[:100]!r} cannot be set.")
            if not _HEADER_VALUE.fullmatch(value.reveal()):
                raise InvalidRequest(
                    f"headers: the value of {name} is empty, or has characters besides visible "
                    "ASCII and single spaces."
                )
        for text in (self.command or "", *self.args):
            if "\0" in text:
                raise InvalidRequest("command, args: no NUL can be in an argument.")
        if self.url is not None:
            check_url(self.url)

    def stored(self) -> dict[str, Any]:
        """For sealing: the secrets are in it, in the clear."""
        return {
            "name": self.name,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "command": self.command,
            "args": list(self.args),
            "env": _revealed(self.env),
            "url": self.url,
            "headers": _revealed(self.headers),
        }


def read(stored: Mapping[str, Any]) -> McpServer:
    return McpServer(
        name=stored["name"],
        created_at=stored["created_at"],
        updated_at=stored["updated_at"],
        command=stored["command"],
        args=tuple(stored["args"]),
        env=_secret(stored["env"]),
        url=stored["url"],
        headers=_secret(stored["headers"]),
    )


def check_url(url: str) -> None:
    """Raises ``InvalidRequest``."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidRequest("url: that is no URL.") from None
    written = all("!" <= character <= "~" for character in url) and "\\" not in url
    if parts.scheme not in {"http", "https"} or not parts.hostname or not written:
        raise InvalidRequest("url: it has to be an http or https URL, in ASCII.")
    if parts.username is not None or parts.password is not None or "#" in url:
        raise InvalidRequest(
            "url: it may hold neither a user nor a fragment.", hint="Secrets belong in headers."
        )
    if port in {0, _SMTP}:
        raise InvalidRequest(f"url: port {port} is reached from no container.")
    try:
        host_name(f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname)
    except InvalidRequest as error:
        raise InvalidRequest(f"url: {error.message}", hint=error.hint) from None


def _revealed(secrets: Mapping[str, Secret] | None) -> dict[str, str] | None:
    return None if secrets is None else {name: one.reveal() for name, one in secrets.items()}


def _secret(texts: Mapping[str, str] | None) -> dict[str, Secret] | None:
    return None if texts is None else {name: Secret(text) for name, text in texts.items()}
