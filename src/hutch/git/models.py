from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from hutch.errors import InvalidRequest
from hutch.gateway.names import HTTPS_PORT, authority, written
from hutch.gateway.table import Remote
from hutch.secrets import Secret

TOKENS_MAX: Final = 20  # of a user
# GitHub and GitLab take any name beside a token; Bitbucket wants x-token-auth.
USERNAME: Final = "x-access-token"
TIMEOUT_S: Final = 120.0
TIMEOUT_MAX_S: Final = 600.0

_SMTP: Final = 25
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~+@-]+)+")
_BRANCH: Final = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.+@#=/-]{0,199}")
_PART: Final = re.compile(r"[A-Za-z0-9_.+@][A-Za-z0-9_.+@ -]{0,99}")
_PARTS_MAX: Final = 8
_TOKEN: Final = re.compile(r"[!-~]{1,4096}")
_USERNAME: Final = re.compile(r"[!-9;-~]{1,100}")  # a colon ends it


@dataclass(frozen=True, slots=True)
class Repository:
    """``host`` is ``host`` or ``host:port``, in the one form that the gateway compares."""

    url: str
    host: str
    name: str


@dataclass(frozen=True, slots=True)
class GitToken:
    host: str
    username: str
    created_at: float


@dataclass(frozen=True, slots=True)
class CloneWanted:
    repository: Repository
    directory: str
    branch: str | None
    depth: int | None
    submodules: bool
    timeout_s: float
    token: Secret | None


@dataclass(frozen=True, slots=True)
class Cloned:
    commit: str | None
    branch: str | None
    directory: str
    bytes: int


def repository(url: str) -> Repository:
    """Raises ``InvalidRequest`` for anything but ``https://host[:port]/path``."""
    if not url.startswith("https://") or not url.isascii() or len(url) > 2000:
        raise InvalidRequest("url: it has to begin with https://, in ASCII.")
    rest = url.removeprefix("https://")
    place, slash, path = rest.partition("/")
    if "@" in place:
        raise InvalidRequest(
            "url: it may hold neither a user nor a password.", hint="A token is a field of its own."
        )
    host = git_host(place)
    path = (slash + path).rstrip("/")
    parts = path.split("/")[1:]
    if not _PATH.fullmatch(path) or any(part in {".", ".."} for part in parts):
        raise InvalidRequest("url: its path is not one of a repository.")
    return Repository(f"https://{host}{path}", host, parts[-1].removesuffix(".git"))


def git_host(text: str) -> str:
    """Raises ``InvalidRequest``."""
    host, port = authority(text, HTTPS_PORT)
    if ":" in host or port == _SMTP:
        raise InvalidRequest("A git host is a name or an IPv4 address, with :port if need be.")
    return host if port == HTTPS_PORT else written(host, port)


def directory(text: str) -> str:
    """Below the workspace. Raises ``InvalidRequest``."""
    parts = text.removeprefix("/workspace/").split("/")
    fine = all(
        _PART.fullmatch(part) and part not in {".", ".."} and part.lower() != ".git"
        for part in parts
    )
    if not fine or len(parts) > _PARTS_MAX or parts[0].startswith(".hutch-"):
        raise InvalidRequest(
            f"directory: {text[:100]!r} is none below the workspace.",
            hint="Names with slashes between them; none begins with a dash.",
        )
    return "/".join(parts)


def branch(text: str) -> str:
    """Or a tag. Raises ``InvalidRequest``."""
    if not _BRANCH.fullmatch(text) or ".." in text:
        raise InvalidRequest("branch: that is no name of a branch or tag.")
    return text


def secret(username: str, token: str) -> Secret:
    """What is kept of both. Raises ``InvalidRequest``."""
    if not _USERNAME.fullmatch(username):
        raise InvalidRequest("username: visible ASCII without a colon.")
    if not _TOKEN.fullmatch(token):
        raise InvalidRequest("token: it is empty, or has characters besides visible ASCII.")
    return Secret(f"{username}:{token}")


def remote(host: str, kept: Secret) -> Remote:
    encoded = base64.b64encode(kept.reveal().encode()).decode()
    return Remote(f"https://{host}", (("Authorization", Secret(f"Basic {encoded}")),))
