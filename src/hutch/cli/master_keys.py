"""Master keys in the environment are the API's alone: nothing that we start inherits them."""

from __future__ import annotations

import os

from hutch.config import Settings
from hutch.vault.key_environment import MASTER_KEY, PREVIOUS


def settings_apart_from_environment() -> Settings:
    """The settings, with the master keys out of the environment that children inherit."""
    settings = Settings()
    for name in (MASTER_KEY, PREVIOUS):
        os.environ.pop(name, None)
    return settings


def for_the_api(settings: Settings) -> dict[str, str]:
    """The environment variables that hand them on to the one program that needs them."""
    given = {
        MASTER_KEY: settings.master_key.get_secret_value(),
        PREVIOUS: settings.master_key_previous.get_secret_value(),
    }
    return {name: text for name, text in given.items() if text}
