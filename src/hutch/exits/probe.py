"""Look at an exit from outside: through it, ask a page that answers the asker's address."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from hutch.gateway.connector import WayConnector, session
from hutch.gateway.refusals import Refusal
from hutch.gateway.table import ExitProxy

WITHIN_S: Final = 10.0
_BODY_MAX: Final = 16 * 1024  # bytes
_GATEWAY_ERRORS: Final = frozenset({500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Probe:
    """``works`` is None when nothing is known: the exit is there, and the page is perhaps not."""

    works: bool | None
    seen_ip: str | None = None
    reason: str = ""


async def probe(proxy: ExitProxy, url: str, *, within_s: float = WITHIN_S) -> Probe:
    """Never raises for what an exit or a page does, however they misbehave."""
    try:
        async with (
            asyncio.timeout(within_s),
            session(WayConnector(proxy, reuse=False), aiohttp.ClientTimeout()) as client,
            client.get(
                url, headers={"accept": "application/json"}, allow_redirects=False
            ) as answer,
        ):
            body = bytearray()
            while len(body) < _BODY_MAX and (chunk := await answer.content.readany()):
                body += chunk
            if answer.status != 200:
                return Probe(None, reason=f"the probe's page answered HTTP {answer.status}.")
    except Refusal as refusal:
        # An exit that could not reach the page says so like this; so does a broken one.
        unknown = refusal.answered in _GATEWAY_ERRORS or not refusal.code
        return Probe(None if unknown else False, reason=refusal.message)
    except TimeoutError:
        return Probe(False, reason=f"no answer through it within {within_s:g} s.")
    except (aiohttp.ClientError, OSError) as error:
        return Probe(False, reason=f"the connection through it broke ({type(error).__name__}).")
    seen = _address(bytes(body))
    if seen is None:
        return Probe(None, reason="the probe's page did not answer an address.")
    return Probe(True, seen_ip=seen)


def _address(body: bytes) -> str | None:
    """``{"proxy": {"ip": …}}`` as Decodo's page, ``{"ip": …}``, or the bare text."""
    text = body.decode("utf-8", "replace").strip()
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        said = text
    if isinstance(said, dict):
        inner = said.get("proxy")
        said = inner.get("ip") if isinstance(inner, dict) else said.get("ip")
    try:
        return str(ipaddress.ip_address(said)) if isinstance(said, str) else None
    except ValueError:
        return None
