"""Why something with files was not done."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Final

from hutch_runtime.protocol import FileErrorCode


class FileRefused(Exception):
    """The message names the path as the caller knows it."""

    def __init__(self, code: FileErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


_CODES: Final[dict[int, tuple[FileErrorCode, str]]] = {
    errno.ENOENT: ("file_not_found", "is not there"),
    errno.EEXIST: ("file_exists", "is there already"),
    errno.EISDIR: ("is_a_directory", "is a directory"),
    errno.ENOTDIR: ("not_a_directory", "is no directory, or there is none on the way to it"),
    errno.ELOOP: ("not_a_file", "is a link, and links are not followed"),
    errno.ENXIO: ("not_a_file", "is no ordinary file"),
    errno.ENOTEMPTY: ("directory_not_empty", "is a directory that is not empty"),
    errno.EACCES: ("permission_denied", "is closed to its own user by its permissions"),
    errno.EPERM: ("permission_denied", "is closed to its own user by its permissions"),
    errno.ENOSPC: ("no_space", "does not fit into what is left of the workspace"),
    errno.EDQUOT: ("no_space", "does not fit into what is left of the workspace"),
    errno.ENAMETOOLONG: ("invalid_path", "is too long for a path"),
    errno.EINVAL: ("invalid_path", "cannot be moved there"),
}


@contextlib.contextmanager
def told(path: str) -> Iterator[None]:
    """Tell of an ``OSError`` as what happened to ``path``."""
    try:
        yield
    except OSError as error:
        known = _CODES.get(error.errno or 0)
        if known is None:
            raise FileRefused("runtime_error", f"{name(path)}: {error.strerror}") from None
        raise FileRefused(known[0], f"{name(path)} {known[1]}.") from None


def name(path: str) -> str:
    return path or "The workspace itself"
