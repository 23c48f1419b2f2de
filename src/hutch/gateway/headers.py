"""Which headers pass the gateway, each way. What the sandbox says about itself never does."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from multidict import CIMultiDict

from hutch.gateway.refusals import Refusal
from hutch.gateway.table import Remote, Route

# About one connection, so never for the next one (RFC 9110, 7.6.1); framing is done anew.
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_KEYS: Final = ("x-api-key", "x-goog-api-key", "api-key")
_CREDENTIALS: Final = frozenset({"authorization", "cookie", *_KEYS})
_OURS: Final = "x-hutch-"
# A cookie would be kept for somebody who cannot send it; an alternative service would be dialled
# past the gateway.
NOT_FROM_PROVIDERS: Final = frozenset({"set-cookie", "alt-svc"})
NOT_FROM_HOSTS: Final = frozenset({"alt-svc"})


def presented_keys(headers: Mapping[str, str]) -> Iterator[str]:
    """The keys that a request shows, whichever way its CLI sends them."""
    for name in _KEYS:
        if name in headers:
            yield headers[name]
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield key.strip()
    # As in HTTPS_PROXY=http://sandbox:KEY@gateway, where an address does not tell who it is.
    scheme, _, login = headers.get("proxy-authorization", "").partition(" ")
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            yield base64.b64decode(login, validate=True).decode().partition(":")[2]


def to_provider(headers: Iterable[tuple[str, str]], route: Route) -> CIMultiDict[str]:
    """The sandbox's headers, without any credential, with the route's. Raises ``Refusal``."""
    items = list(headers)
    replaced = frozenset(_plain(name) for name, _ in route.headers)
    credentials = frozenset({"cookie"}) if route.own_credential else _CREDENTIALS
    passed = _without(items, credentials | replaced)
    for name, secret in route.headers:
        passed[name] = secret.reveal()
    for name, value in route.added:
        passed[name] = ",".join((*passed.popall(name, ()), value))
    return passed


def to_remote(headers: Iterable[tuple[str, str]], remote: Remote | None) -> CIMultiDict[str]:
    """The sandbox's headers, without any credential, with the remote's. Raises ``Refusal``."""
    secrets = remote.headers if remote is not None else ()
    replaced = frozenset(_plain(name) for name, _ in secrets)
    passed = _without(list(headers), _CREDENTIALS | replaced)
    for name, secret in secrets:
        passed[name] = secret.reveal()
    return passed


def to_host(headers: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    """The sandbox's headers for a host of its own choice: its credentials there are its own."""
    return _without(list(headers), frozenset())


def to_sandbox(
    headers: Iterable[tuple[str, str]], withheld: frozenset[str] = NOT_FROM_PROVIDERS
) -> CIMultiDict[str]:
    """The answer's headers, less those of its connection to us and ``withheld``."""
    items = list(headers)
    dropped = (_HOP_BY_HOP | withheld | _nominated(items)) - {"content-length"}
    return CIMultiDict(
        (name, value) for name, value in items if _plain(name) not in dropped and _encodable(value)
    )


def _without(items: list[tuple[str, str]], more: frozenset[str]) -> CIMultiDict[str]:
    """What passes on to the next connection: neither the last one's own headers nor ``more``."""
    dropped = _HOP_BY_HOP | _nominated(items) | more
    passed: CIMultiDict[str] = CIMultiDict()
    # aiohttp's client keeps a repeated header only if its name is spelt alike every time.
    spelling: dict[str, str] = {}
    for name, value in items:
        plain = _plain(name)
        if plain in dropped or plain.startswith(_OURS):
            continue
        if not _encodable(value):
            raise Refusal(400, "a header of the request is not UTF-8.")
        passed.add(spelling.setdefault(name.lower(), name), value)
    return passed


def _plain(name: str) -> str:
    """Some servers take an underscore for a dash: ``X_Api_Key`` must not slip through."""
    return name.lower().replace("_", "-")


def _nominated(items: Iterable[tuple[str, str]]) -> frozenset[str]:
    """The headers that ``Connection`` names as its own."""
    return frozenset(
        _plain(token.strip())
        for name, value in items
        if name.lower() == "connection"
        for token in value.split(",")
    )


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
