"""Which providers' requests go to an offline model, which answers anybody at no cost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

import aiohttp

from hutch.config import PROVIDER_BASE_URLS, Settings
from hutch.control.gateway import route_for
from hutch.gateway.table import Route
from hutch.secrets import Secret
from hutch.vault.models import Credential
from hutch_runtime.protocol import PROVIDERS, Provider

_WITHIN_S: Final = 2.0  # it is on this machine, or near
_LABEL: Final = "x-hutch-offline-model"  # on each of its answers; see hutch.offline_model.app
_KEY: Final = Secret("image-trial")  # it takes any


class OfflineModels:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def providers(self) -> AbstractSet[Provider]:
        """Nobody else is asked: a provider's own address is never the offline model's."""
        chosen = [p for p in PROVIDERS if self._settings.base_url(p) != PROVIDER_BASE_URLS[p]]
        found = await asyncio.gather(*(_labelled(self._settings.base_url(p)) for p in chosen))
        return {provider for provider, offline in zip(chosen, found, strict=True) if offline}

    async def routes(self) -> Mapping[Provider, Route]:
        return {
            provider: route_for(self._settings, Credential(provider, "api_key", _KEY))
            for provider in await self.providers()
        }


async def _labelled(base_url: str) -> bool:
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_WITHIN_S), cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            session.get(base_url, allow_redirects=False) as answer,
        ):
            return answer.headers.get(_LABEL) == "1"
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
