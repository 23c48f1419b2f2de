"""Which service the command line speaks to, and as whom.

``HUTCH_URL`` and ``HUTCH_API_KEY`` decide if they are set; else the profile, if there is one (see
``servers``); else what ``make up`` wrote down.
"""

from __future__ import annotations

import json
import os
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Final

from hutch.cli import servers
from hutch.cli.servers import Server, write_private
from hutch.cli.tls import pinned
from hutch.client import AsyncClient, Client
from hutch.config import Settings
from hutch.errors import HostNotReady

# A person waits: a service that is not there is told soon. A run under way is given longer.
RETRY_FOR_S: Final = 2.0
FOLLOW_FOR_S: Final = 60.0
_NO_SERVICE: Final = "`make up` starts a service here; or set HUTCH_URL and HUTCH_API_KEY."


def renew_user_key(settings: Settings, before: str, key: str) -> None:
    """Wherever a key that begins with ``before`` is kept."""
    if (saved_user_key(settings) or "").startswith(before):
        save_user_key(settings, key)
    known = servers.load()
    if any(server.key.startswith(before) for server in known.named.values()):
        named = {
            name: replace(server, key=key) if server.key.startswith(before) else server
            for name, server in known.named.items()
        }
        servers.save(replace(known, named=named))


class NoKey(HostNotReady):
    pass


def service_url(settings: Settings) -> str:
    scheme = "http" if settings.tls_cert is None else "https"
    return os.environ.get("HUTCH_URL") or f"{scheme}://{settings.host}:{settings.port}"


def _trust(settings: Settings) -> str | ssl.SSLContext | None:
    """A private authority's certificate; of the service on this machine the one that it has."""
    ca = os.environ.get("HUTCH_CA")
    if ca:
        if not Path(ca).is_file():
            raise HostNotReady(f"There is no file {ca}.", hint="HUTCH_CA names a PEM file.")
        return ca
    if settings.tls_cert is not None and "HUTCH_URL" not in os.environ:
        return pinned(settings.tls_cert)
    return None


def client_with(
    settings: Settings, key: str, *, user_id: str | None = None, retry_for_s: float = RETRY_FOR_S
) -> Client:
    """An empty ``key`` is for what needs none."""
    return Client(
        service_url(settings), key, user_id=user_id, retry_for_s=retry_for_s, ca=_trust(settings)
    )


def save_user_key(settings: Settings, key: str) -> None:
    write_private(settings.data_dir / "client.json", json.dumps({"key": key}))


def saved_user_key(settings: Settings) -> str | None:
    try:
        key = json.loads((settings.data_dir / "client.json").read_text())["key"]
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return str(key)


def _profile() -> Server | None:
    if "HUTCH_URL" in os.environ:
        return None
    chosen = servers.load().chosen()
    return chosen[1] if chosen else None


def _of_profile(server: Server, key: str, *, user_id: str | None) -> Client:
    return Client(server.url, key, user_id=user_id, retry_for_s=RETRY_FOR_S, ca=server.ca or None)


def user_client(settings: Settings) -> Client:
    url, key, user_id, ca = _as_user(settings)
    return Client(url, key, user_id=user_id, retry_for_s=RETRY_FOR_S, ca=ca)


def user_client_later(settings: Settings) -> AsyncClient:
    """For what runs for long, and would rather wait than give up."""
    url, key, user_id, ca = _as_user(settings)
    return AsyncClient(url, key, user_id=user_id, retry_for_s=FOLLOW_FOR_S, ca=ca)


def _as_user(settings: Settings) -> tuple[str, str, str | None, str | ssl.SSLContext | None]:
    profile = _profile()
    user_id = os.environ.get("HUTCH_USER")
    key = os.environ.get("HUTCH_API_KEY")
    if profile is not None:
        return profile.url, key or profile.key, user_id or profile.user or None, profile.ca or None
    key = key or saved_user_key(settings)
    if key is None:
        raise NoKey("No API key is known here.", hint=_NO_SERVICE)
    return service_url(settings), key, user_id, _trust(settings)


def admin_client(settings: Settings, *, here: bool = False) -> Client:
    """``here``: of the service on this machine, whatever profile is in use."""
    key = os.environ.get("HUTCH_ADMIN_KEY")
    profile = None if here else _profile()
    if profile is not None:
        key = key or profile.admin_key
        if not key:
            raise NoKey(
                "This profile has no admin key.", hint="`hutch profile add NAME --admin` adds one."
            )
        return _of_profile(profile, key, user_id=None)
    if key is None:
        try:
            key = settings.admin_key_file.read_text().strip()
        except FileNotFoundError:
            raise NoKey(
                "No admin key is known here.",
                hint="`make up` starts a service here; or set HUTCH_URL and HUTCH_ADMIN_KEY.",
            ) from None
        except PermissionError:
            raise NoKey(
                f"{settings.admin_key_file} belongs to another user.",
                hint="Run this as the user who runs the service.",
            ) from None
    return client_with(settings, key)
