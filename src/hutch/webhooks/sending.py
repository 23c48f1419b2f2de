"""One signed request to an address that somebody else chose: nothing of ours can be reached by it.

The name is resolved here, each of its addresses is checked, and one of those very addresses is
dialled. No redirect is followed, no proxy used, nothing read of the answer but its status.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from hutch.gateway.addresses import AddressCheck
from hutch.gateway.refusals import Refusal

WITHIN_S: Final = 15.0  # from the name to the answer's status
_AGENT: Final = "Hutch-Webhooks/1"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int | None  # None: there was none
    error: str  # "" for a status of success

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class Sender:
    def __init__(self, check: AddressCheck) -> None:
        self._check = check
        self._tls = ssl.create_default_context()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        try:
            async with asyncio.timeout(WITHIN_S):
                return await self._post(url, headers, body)
        except TimeoutError:
            return Answer(None, f"no answer within {WITHIN_S:.0f} s")
        except Refusal as refusal:
            return Answer(None, refusal.message)
        except aiohttp.ClientConnectorCertificateError:
            return Answer(None, "its certificate is not valid")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(None, f"it cannot be reached ({type(error).__name__})")

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        parts = urlsplit(url)
        addresses = await self._check.addresses(parts.hostname or "")
        if parts.scheme != "https" and not all(map(self._check.opened, addresses)):
            raise Refusal(403, "https is required.")
        connector = aiohttp.TCPConnector(
            resolver=_Checked(addresses), use_dns_cache=False, force_close=True, ssl=self._tls
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            ) as http,
            http.post(
                url,
                data=body,
                headers={**headers, "content-type": "application/json", "user-agent": _AGENT},
                allow_redirects=False,
            ) as answer,
        ):
            status = answer.status
            answer.close()  # what it says is nothing that we need
        if 300 <= status < 400:
            return Answer(status, f"{status}: a redirect, which is not followed")
        return Answer(status, "" if 200 <= status < 300 else f"it answered {status}")


class _Checked(AbstractResolver):
    """Gives the addresses that were checked, whatever is asked."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        del family
        return [self._result(host, address, port) for address in self._addresses]

    async def close(self) -> None:
        """It holds nothing."""

    @staticmethod
    def _result(host: str, address: str, port: int) -> ResolveResult:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        result: Any = {
            "hostname": host,
            "host": address,
            "port": port,
            "family": family,
            "proto": 0,
            "flags": socket.AI_NUMERICHOST,
        }
        return result  # type: ignore[no-any-return]  # a TypedDict, whose names are these
