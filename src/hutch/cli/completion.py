"""What a shell completes after Tab, besides commands and options: names that the service, or this
person's own files, know. Where nobody answers at once there are none: a shell must not hang.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Annotated, Final

import typer

from hutch.cli import servers
from hutch.cli.profile import user_client
from hutch.client import Client, ClientError
from hutch.config import Settings
from hutch.errors import HutchError

Names = list[tuple[str, str]]  # and what a shell shows beside each

PATIENCE_S: Final = 1.0
_MOST: Final = 20


def profile_names() -> list[str]:
    return sorted(servers.load().named)


def sessions() -> Names:
    return _asked(
        lambda client: [
            (one.id, f"{one.provider} {one.name or ''}".strip())
            for one in client.sessions(limit=_MOST)
        ]
    )


def runs() -> Names:
    return _asked(
        lambda client: [(one.id, f"{one.provider} {one.state}") for one in client.runs(limit=_MOST)]
    )


def _asked(ask: Callable[[Client], Names]) -> Names:
    found: Names = []

    def look() -> None:
        try:
            with user_client(Settings()) as client:
                found.extend(ask(client.with_options(retry_for_s=0)))
        except (ClientError, HutchError):
            pass

    looking = threading.Thread(target=look, daemon=True, name="completion")
    looking.start()
    looking.join(PATIENCE_S)
    return list(found)


RunId = Annotated[str, typer.Argument(help="run_…, from `hutch runs list`.", autocompletion=runs)]
SessionId = Annotated[
    str, typer.Argument(help="ses_…, from `hutch sessions list`.", autocompletion=sessions)
]
