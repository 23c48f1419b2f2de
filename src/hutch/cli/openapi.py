"""``python -m hutch.cli.openapi``: the API's own description, for generators of clients."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractAsyncContextManager
from typing import NoReturn

from hutch.api.app import create_app
from hutch.app import Hutch


def document() -> str:
    def never() -> AbstractAsyncContextManager[Hutch]:
        _nothing_is_served()

    described = create_app(never).openapi()
    return json.dumps(described, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _nothing_is_served() -> NoReturn:
    raise AssertionError("nothing is served here")


if __name__ == "__main__":
    sys.stdout.write(document())
