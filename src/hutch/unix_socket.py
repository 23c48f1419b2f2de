"""A Unix socket that only those who should may open, from its first moment on."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Final

from hutch.errors import HostNotReady

_BACKLOG: Final = 128
_OWNER: Final = 0o600
_OWNER_AND_GROUP: Final = 0o660


def bind(path: Path, *, group: str = "") -> socket.socket:
    """For this user, and for ``group``, a name or a number, if one is given. Raises
    ``HostNotReady``.

    Bound under another name and moved into place: never there with a wider mode, nor dead.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft.unlink(missing_ok=True)
        listener.setblocking(False)
        mask = os.umask(0o177)
        try:
            listener.bind(str(draft))
        finally:
            os.umask(mask)
        if group:
            shutil.chown(draft, group=int(group) if group.isdecimal() else group)
        draft.chmod(_OWNER_AND_GROUP if group else _OWNER)
        listener.listen(_BACKLOG)  # whoever sees it can connect
        draft.replace(path)
    except LookupError as error:
        listener.close()
        draft.unlink(missing_ok=True)
        raise HostNotReady(
            f"This machine has no group {group}, which is to open {path}.",
            hint="HUTCH_SOCKET_GROUP names a group of the user that the API runs as.",
        ) from error
    except OSError as error:
        listener.close()
        draft.unlink(missing_ok=True)
        raise HostNotReady(
            f"The socket {path} cannot be made: {error.strerror or error}.",
            hint="A socket's path has at most 107 bytes, and its directory must be this user's.",
        ) from error
    return listener
