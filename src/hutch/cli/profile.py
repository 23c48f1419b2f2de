"""Which service the command line speaks to, and as whom.

``HUTCH_URL`` and ``HUTCH_API_KEY`` decide if they are set; else what ``make up`` wrote down.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

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
    return os.environ.get("HUTCH_URL") or f"http://{settings.host}:{settings.port}"


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
    return Client(service_url(settings), key, user_id=os.environ.get("HUTCH_USER"))


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
    return Client(service_url(settings), key)
