"""Files that a caller sent with a prompt: written into the workspace, where the agent finds them.

The directory is the run's own and new, so that nothing of the user's is written over. It is reached
by no link: an agent may have put one there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hutch_runtime.home import Home
from hutch_runtime.protocol import Attachment

DIRECTORY: Final = ".attachments"


@dataclass(frozen=True, slots=True)
class Placed:
    """An attachment, and where it is."""

    attachment: Attachment
    path: Path


def place(workspace: Home, run_id: str, attachments: Sequence[Attachment]) -> tuple[Placed, ...]:
    """Raises ``OSError``: no room, or something is in the way."""
    for attachment in attachments:
        workspace.write(f"{DIRECTORY}/{run_id}/{attachment.name}", attachment.content)
    place_of = workspace.path / DIRECTORY / run_id
    return tuple(Placed(attachment, place_of / attachment.name) for attachment in attachments)


def note(placed: Sequence[Placed]) -> str:
    """What the agent is told of them, beside the prompt; "" if there are none."""
    if not placed:
        return ""
    names = "\n".join(str(one.path) for one in placed)
    return f"The user attached these files:\n{names}"
