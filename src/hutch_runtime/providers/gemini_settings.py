"""``~/.gemini/settings.json`` as Hutch needs it, whatever else the user keeps in it."""

from __future__ import annotations

import json
from typing import Any, Final

from hutch_runtime.home import Home
from hutch_runtime.protocol import MIB

_NAME: Final = ".gemini/settings.json"
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


def write_settings(home: Home) -> None:
    """Put our settings over the user's. Raises ``OSError``."""
    home.write(_NAME, json.dumps(_merged(_read(home), _OURS), indent=2).encode())


def _read(home: Home) -> dict[str, Any]:
    """The user's settings; none if there are none, or they are unreadable (comments included)."""
    try:
        settings = json.loads(home.read(_NAME, _MAX_BYTES))
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
