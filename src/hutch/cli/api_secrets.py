"""Secrets in the environment that are the API's alone: nothing else that we start inherits them."""

from __future__ import annotations

import os
from typing import Final

from hutch.config import Settings
from hutch.vault.key_environment import MASTER_KEY, PREVIOUS

DATABASE_URL: Final = "HUTCH_DATABASE_URL"  # there may be a password in it
NAMES: Final = (MASTER_KEY, PREVIOUS, DATABASE_URL)


def settings_apart_from_environment() -> Settings:
    """The settings, with those secrets out of the environment that children inherit."""
    settings = Settings()
    for name in NAMES:
        os.environ.pop(name, None)
    return settings


def for_the_api(settings: Settings) -> dict[str, str]:
    """The environment variables that hand them on to the one program that needs them."""
    given = {
        MASTER_KEY: settings.master_key.get_secret_value(),
        PREVIOUS: settings.master_key_previous.get_secret_value(),
        DATABASE_URL: settings.database_url.get_secret_value(),
    }
    return {name: text for name, text in given.items() if text}
