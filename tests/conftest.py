from __future__ import annotations

import asyncio
import os
from pathlib import Path

# Debian 12's Python 3.11.2 cannot compile it late in a deep stack (python/cpython#106905), which
# is where pytest's plugin of hypothesis would import it first.
import hypothesis  # noqa: F401
import pytest

from hutch.images.fetch import fetch_clis
from hutch.images.inputs import inputs

# These share one container engine and wait for it most of the time: one after the other, while
# another process runs the rest.
_ENGINE = frozenset({"chaos", "contract", "host", "images", "integration"})
_HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs in the same process, where `make test` has several (pytest-xdist): the tests of
    the engine, and else those of a file.
    """
    for item in items:
        place = item.path.relative_to(_HERE)
        group = "engine" if place.parts[0] in _ENGINE else str(place)
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_sessionstart(session: pytest.Session) -> None:
    """The CLIs outside the image, too: an image that is up to date was built without fetching."""
    if os.environ.get("PYTEST_XDIST_WORKER") or session.config.option.collectonly:
        return
    if "HUTCH_TEST_CLI_DIR" not in os.environ:
        asyncio.run(fetch_clis(inputs()))
