"""``python -m hutch.offline_model --host 127.0.0.1 --port 8486``."""

from __future__ import annotations

import argparse
from pathlib import Path

import uvicorn

from hutch.offline_model.app import create_app


def serve(host: str, port: int, log: Path | None) -> None:
    """Serve until SIGINT or SIGTERM."""
    uvicorn.run(
        create_app(log),
        host=host,
        port=port,
        loop="uvloop",
        ws="none",  # a WebSocket try has to get its 426
        log_level="warning",
        access_log=False,  # Gemini clients may put a key into the query
        timeout_graceful_shutdown=1,  # hanging streams would keep it up
        server_header=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="hutch.offline_model", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8486)
    parser.add_argument("--log", type=Path, help="append every turn that is asked for to this file")
    arguments = parser.parse_args()
    serve(arguments.host, arguments.port, arguments.log)


if __name__ == "__main__":
    main()
