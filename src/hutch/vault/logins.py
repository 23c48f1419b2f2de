"""The files of a login, as they are sealed: checked, bounded, and always in the same order."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Final

from hutch.errors import CredentialMalformed

CODEX_AUTH: Final = ".codex/auth.json"
FILES_MAX: Final = 8
BYTES_MAX: Final = 256 * 1024  # of all files; real ones have a few kB
# Below the home directory: no climbing out, nothing that a shell or a tar would read otherwise.
_PATH: Final = re.compile(r"(?!.*(?:^|/)\.\.?(?:/|$))[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+){0,7}")
_PATH_MAX: Final = 200


def pack(files: Mapping[str, bytes]) -> bytes:
    """``files`` by path below the home directory. Raises ``CredentialMalformed``."""
    if not 0 < len(files) <= FILES_MAX:
        raise CredentialMalformed(
            f"A login has between one and {FILES_MAX} files, not {len(files)}.",
            hint="Sign in again with `hutch login`.",
        )
    if any(len(path) > _PATH_MAX or not _PATH.fullmatch(path) for path in files):
        raise CredentialMalformed(
            "A login's file has a name that is not taken.",
            hint="Names are relative to the home directory, such as .codex/auth.json.",
        )
    if sum(map(len, files.values())) > BYTES_MAX:
        raise CredentialMalformed(
            f"The files of a login have more than {BYTES_MAX // 1024} KB.",
            hint="Sign in again with `hutch login`.",
        )
    encoded = {path: base64.b64encode(files[path]).decode() for path in sorted(files)}
    return json.dumps(encoded).encode()


def unpack(packed: bytes) -> dict[str, bytes]:
    return {path: base64.b64decode(text) for path, text in json.loads(packed).items()}
