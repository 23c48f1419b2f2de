"""``python -m hutch.gateway --host ADDRESS``: its own process, so an API restart cuts nothing."""

from __future__ import annotations

import argparse
import asyncio
import gc
import ipaddress
import resource
import sys

import uvloop

from hutch.config import Settings
from hutch.errors import HutchError
from hutch.gateway.server import serve
from hutch.log_output import configure_logging


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hutch.gateway", description=__doc__)
    parser.add_argument(
        "--host",
        required=True,
        type=ipaddress.IPv4Address,
        help="the literal address at which sandboxes reach this host",
    )
    arguments = parser.parse_args()
    # A tunnel takes six descriptors, and the usual soft limit is 1,024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    configure_logging()
    # A full collection would stop every transfer, to look at modules that never go.
    gc.collect()
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(Settings(), host=str(arguments.host)))
    except HutchError as error:
        sys.stderr.write(f"{error.message}\n{error.hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
