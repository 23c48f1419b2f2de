"""Files that a caller sent with a prompt: written into the workspace, where the agent finds them.

The directory is the run's own and new, so that nothing of the user's is written over. It is reached
by no link: an agent may have put one there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hutch_runtime.protocol import Attachment

DIRECTORY: Final = ".attachments"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Placed:
    """An attachment, and where it is."""

    attachment: Attachment
    path: Path


def place(workspace: Path, run_id: str, attachments: Sequence[Attachment]) -> tuple[Placed, ...]:
    """Raises ``OSError``: no room, or something is in the way."""
    if not attachments:
        return ()
    with _below(workspace, DIRECTORY, run_id) as directory:
        for attachment in attachments:
            descriptor = os.open(attachment.name, _NEW, 0o600, dir_fd=directory)
            with os.fdopen(descriptor, "wb") as file:
                file.write(attachment.content)
    place_of = workspace / DIRECTORY / run_id
    return tuple(Placed(attachment, place_of / attachment.name) for attachment in attachments)


def note(placed: Sequence[Placed]) -> str:
    """What the agent is told of them, beside the prompt; "" if there are none."""
    if not placed:
        return ""
    names = "\n".join(str(one.path) for one in placed)
    return f"The user attached these files:\n{names}"


@contextlib.contextmanager
def _below(top: Path, *names: str) -> Iterator[int]:
    """The directory of these names below ``top``, made if need be, open."""
    directory = os.open(top, _DIRECTORY & ~os.O_NOFOLLOW)
    try:
        for name in names:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=directory)
            below = os.open(name, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = below
        yield directory
    finally:
        os.close(directory)
