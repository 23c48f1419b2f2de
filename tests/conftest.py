from __future__ import annotations

import asyncio
import os

# Debian 12's Python 3.11.2 cannot compile it late in a deep stack (python/cpython#106905), which
# is where pytest's plugin of hypothesis would import it first.
import hypothesis  # noqa: F401
import pytest

from hutch.images.fetch import fetch_clis
from hutch.images.inputs import inputs


def pytest_sessionstart(session: pytest.Session) -> None:
    """The CLIs outside the image, too: an image that is up to date was built without fetching."""
    if "HUTCH_TEST_CLI_DIR" not in os.environ and not session.config.option.collectonly:
        asyncio.run(fetch_clis(inputs()))
