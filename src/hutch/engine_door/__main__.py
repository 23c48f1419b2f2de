"""``python -m hutch.engine_door``: the one process that holds the engine's socket."""

from __future__ import annotations

import argparse
import asyncio
import sys

import uvloop

from hutch.config import Settings
from hutch.engine_door.server import serve
from hutch.errors import HutchError
from hutch.log_output import configure_logging


def main() -> int:
    argparse.ArgumentParser(prog="python -m hutch.engine_door", description=__doc__).parse_args()
    configure_logging()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(Settings()))
    except HutchError as error:
        sys.stderr.write(f"{error.message}\n{error.hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
