"""Which service the command line speaks to, and as whom.

``HUTCH_URL`` and ``HUTCH_API_KEY`` decide if they are set; else what ``make up`` wrote down.
"""

from __future__ import annotations

import json
import os
import ssl
from pathlib import Path

from hutch.cli.tls import pinned
from hutch.client import Client
from hutch.config import Settings
from hutch.errors import HostNotReady

_NO_SERVICE = "`make up` starts a service here; or set HUTCH_URL and HUTCH_API_KEY."


def write_private(path: Path, text: str) -> None:
    """Replace the file in one step, readable by its owner alone."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)


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


def client_with(settings: Settings, key: str, *, user_id: str | None = None) -> Client:
    """An empty ``key`` is for what needs none."""
    return Client(service_url(settings), key, user_id=user_id, ca=_trust(settings))


def save_user_key(settings: Settings, key: str) -> None:
    write_private(settings.data_dir / "client.json", json.dumps({"key": key}))


def saved_user_key(settings: Settings) -> str | None:
    try:
        key = json.loads((settings.data_dir / "client.json").read_text())["key"]
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return str(key)


def user_client(settings: Settings) -> Client:
    key = os.environ.get("HUTCH_API_KEY") or saved_user_key(settings)
    if key is None:
        raise HostNotReady("No API key is known here.", hint=_NO_SERVICE)
    return client_with(settings, key, user_id=os.environ.get("HUTCH_USER"))


def admin_client(settings: Settings) -> Client:
    key = os.environ.get("HUTCH_ADMIN_KEY")
    if key is None:
        try:
            key = settings.admin_key_file.read_text().strip()
        except FileNotFoundError:
            raise HostNotReady(
                "No admin key is known here.",
                hint="`make up` starts a service here; or set HUTCH_URL and HUTCH_ADMIN_KEY.",
            ) from None
        except PermissionError:
            raise HostNotReady(
                f"{settings.admin_key_file} belongs to another user.",
                hint="Run this as the user who runs the service.",
            ) from None
    return client_with(settings, key)
