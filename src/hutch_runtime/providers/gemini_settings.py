"""``~/.gemini/settings.json`` as Hutch needs it, whatever else the user keeps in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from hutch_runtime.protocol import MIB

_MAX_BYTES: Final = 1 * MIB
_OURS: Final[dict[str, Any]] = {
    "security": {"auth": {"selectedType": "gemini-api-key"}},
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
    "general": {
        "enableAutoUpdate": False,
        "enableAutoUpdateNotification": False,
        "maxAttempts": 2,  # with its default a 429 takes 217 s
    },
}


def write_settings(home: Path) -> None:
    """Put our settings over the user's. ``home`` is ``~/.gemini``. Raises ``OSError``."""
    path = home / "settings.json"
    beside = home / "settings.json.hutch"
    beside.write_text(json.dumps(_merged(_read(path), _OURS), indent=2), encoding="utf-8")
    beside.replace(path)


def _read(path: Path) -> dict[str, Any]:
    """The user's settings; none if there are none, or they are unreadable (comments included)."""
    try:
        with path.open("rb") as file:
            settings = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, dict):
            result[key] = _merged(below if isinstance(below, dict) else {}, value)
        else:
            result[key] = value
    return result
