"""Try a credential: one cheap request to its provider, which costs no tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp

from hutch.errors import ExitUnavailable
from hutch.gateway.refusals import Refusal
from hutch.vault.models import Credential, Result
from hutch_runtime.protocol import Provider

_WITHIN_S: Final = 15.0
_PATHS: Final[dict[Provider, str]] = {
    "claude": "/v1/models",
    "codex": "/v1/models",
    "gemini": "/v1beta/models",
}
_BODY_MAX: Final = 16 * 1024  # bytes read of an error

# How requests of a user leave: a connector made for one request, which goes by their exit, or None
# for the server's own address. Raises ``ExitUnavailable``.
ConnectorFor = Callable[[str], Awaitable[aiohttp.BaseConnector | None]]


@dataclass(frozen=True, slots=True)
class Probed:
    result: Result
    detail: str  # for people; nothing of the credential or of the answer's text is in it


class CredentialProbe:
    def __init__(self, base_url: Callable[[Provider], str], connector_for: ConnectorFor) -> None:
        self._base_url = base_url
        self._connector_for = connector_for

    async def probe(self, user_id: str, credential: Credential) -> Probed | None:
        """None for a login: only its CLI may use it, since its tokens rotate."""
        if credential.secret is None:
            return None
        provider = credential.provider
        headers = {name: secret.reveal() for name, secret in credential.headers()}
        headers.update(credential.added())
        if provider == "claude":
            headers["anthropic-version"] = "2023-06-01"
        url = self._base_url(provider) + _PATHS[provider]
        try:
            connector = await self._connector_for(user_id)
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    timeout=aiohttp.ClientTimeout(total=_WITHIN_S),
                    cookie_jar=aiohttp.DummyCookieJar(),
                ) as session,
                # A redirect would carry the credential to somebody else.
                session.get(url, headers=headers, allow_redirects=False) as answer,
            ):
                return _judge(provider, answer.status, await answer.content.read(_BODY_MAX))
        except (ExitUnavailable, Refusal) as error:
            return Probed("unreachable", error.message)
        except TimeoutError:
            return Probed("unreachable", f"No answer within {_WITHIN_S:.0f} s.")
        except (aiohttp.ClientError, OSError) as error:
            return Probed("unreachable", f"No connection: {type(error).__name__}.")


def _judge(provider: Provider, status: int, body: bytes) -> Probed:
    if 200 <= status < 300:
        return Probed("ok", "The provider takes it.")
    # Google answers 400 to a key that it does not know, with this reason.
    if status in {401, 403} or (
        provider == "gemini" and status == 400 and b"API_KEY_INVALID" in body
    ):
        return Probed("rejected", f"The provider refuses it (HTTP {status}).")
    if status == 429:
        return Probed("rate_limited", "The provider knows it, and limits it now (HTTP 429).")
    return Probed("error", f"The provider answered HTTP {status}, which says nothing about it.")
