"""From a request line's target to the provider's URL, byte for byte, and never above its base."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, unquote_plus

from yarl import URL

from hutch.errors import InvalidRequest
from hutch.gateway.names import authority, written
from hutch.gateway.refusals import Refusal
from hutch.gateway.table import Remote
from hutch_runtime.protocol import PROVIDERS, Provider

# Printable ASCII without what a URL parser further on may take for something else.
_PLAIN: Final = re.compile(r"[!\"$-\[\]-~]*")
_MCP: Final = re.compile(r"/mcp/[a-z0-9-]{1,64}")
# What git asks for over HTTP, and nothing else: a token must be of no use for a host's other pages.
_GIT: Final = re.compile(
    r"/git/(?P<place>[a-z0-9._-]{1,253}(?::[1-9][0-9]{0,4})?)"
    r"(?P<path>/[A-Za-z0-9._~+@/-]+"
    r"(?:/info/refs\?service=git-(?:upload|receive)-pack|/git-(?:upload|receive)-pack))"
)
HTTP_PORT: Final = 80
_DECODINGS: Final = 3  # %252e%252e: a server behind the first may decode again
# Google's APIs take a key in the query as well; one that a sandbox sends must not go out.
_QUERY_KEYS: Final = frozenset({"key", "access_token", "oauth_token"})


@dataclass(frozen=True, slots=True)
class Target:
    provider: Provider
    path: str  # after the provider's name: "" or "/…", as it was sent
    query: str  # without the question mark, keys taken out
    presented: tuple[str, ...]  # the keys that were in the query

    def url(self, base_url: str, strip: str = "") -> URL:
        path = self.path or "/"
        if strip and (path == strip or path.startswith(f"{strip}/")):
            path = path.removeprefix(strip) or "/"
        query = f"?{self.query}" if self.query else ""
        return URL(f"{base_url.rstrip('/')}{path}{query}", encoded=True)


@dataclass(frozen=True, slots=True)
class RemoteTarget:
    """Of an MCP server exactly its own URL; of a git host what git asks for on ``path``."""

    name: str
    place: str = ""  # host, or host:port, of a git host
    path: str = ""
    presented: tuple[str, ...] = ()

    def url(self, remote: Remote | None) -> URL | None:
        """Where it leads; None if nowhere. A git host can be asked without a secret as well."""
        if self.place:
            return URL(f"https://{self.place}{self.path}", encoded=True)
        return URL(remote.url, encoded=True) if remote is not None else None


def parse_remote(raw: str) -> RemoteTarget | None:
    """None for what is no remote's path."""
    if _MCP.fullmatch(raw):
        return RemoteTarget(raw[1:])
    asked = _GIT.fullmatch(raw)
    if asked is None or _climbs(asked["path"].partition("?")[0]):
        return None
    return RemoteTarget(f"git/{asked['place']}", asked["place"], asked["path"])


def parse_target(raw: str) -> Target:
    """Raises ``Refusal`` for anything but ``/{provider}[/…][?…]``."""
    if not raw.startswith("/"):
        raise Refusal(403, "only the paths /claude, /codex and /gemini lead anywhere.")
    path, _, query = raw.partition("?")
    name, slash, rest = path[1:].partition("/")
    for provider in PROVIDERS:
        if name == provider:
            break
    else:
        raise Refusal(403, "only the paths /claude, /codex and /gemini lead anywhere.")
    if _PLAIN.fullmatch(path) is None or _PLAIN.fullmatch(query) is None or _climbs(rest):
        raise Refusal(400, "the request's path is not one that can be forwarded.")
    presented: list[str] = []
    if provider == "gemini":
        query, presented = _without_keys(query)
    return Target(provider, slash + rest, query, tuple(presented))


def parse_absolute(raw: str) -> tuple[str, int, URL]:
    """``http://host[:port][/path][?query]`` → host, port, and the URL as it will be asked for.
    Raises ``InvalidRequest``.
    """
    place, slash, rest = raw.removeprefix("http://").partition("/")
    if "?" in place or "@" in place or _PLAIN.fullmatch(slash + rest) is None:
        raise InvalidRequest("That is not a URL that can be forwarded.")
    host, port = authority(place, HTTP_PORT)
    return host, port, URL(f"http://{written(host, port)}/{rest}", encoded=True)


def _climbs(path: str) -> bool:
    for _ in range(_DECODINGS):
        for segment in re.split(r"[/\\]", path):
            # Some servers drop what follows a semicolon, and read "..;x" as "..".
            if segment.partition(";")[0] in {".", ".."}:
                return True
        path = unquote(path)
    return False


def _without_keys(query: str) -> tuple[str, list[str]]:
    kept, keys = [], []
    for piece in query.split("&"):
        name, _, value = piece.partition("=")
        if unquote_plus(name).strip().lower() in _QUERY_KEYS:
            keys.append(unquote_plus(value))
        else:
            kept.append(piece)
    return "&".join(kept), keys
