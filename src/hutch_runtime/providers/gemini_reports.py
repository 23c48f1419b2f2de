"""The reports of API errors that Gemini writes into its temporary directory.

They hold the class of an error, which ACP does not tell (and standard error is only written when
the process exits). They also hold whole conversations: none is kept.
"""

from __future__ import annotations

import fnmatch
import json
import time
from typing import Final

from hutch_runtime.home import Home

TEMPORARY: Final = ".gemini/hutch-tmp"  # its TMPDIR
_PATTERN: Final = "gemini-client-error-*.json"
# The error is the first thing in a report, behind it comes the conversation.
_HEAD_BYTES: Final = 16 * 1024
_MAX_REPORTS: Final = 1_000
_MAX_NAMES: Final = 10_000
# A report that nobody asked for by then belongs to no turn that waits.
_STALE_S: Final = 60.0


def take_report(home: Home, error_class: str, message: str) -> bool:
    """True if a report says that ``message`` was an ``error_class``; that report is removed, and so
    are old ones.
    """
    said = json.dumps(f"{error_class}: {message}", ensure_ascii=False)[:-1]
    wanted = f'"stack": {said}'[: _HEAD_BYTES // 8].encode(errors="replace")
    found = False
    try:
        names = home.names(TEMPORARY, _MAX_NAMES)
    except OSError:
        return False
    for base in fnmatch.filter(names, _PATTERN)[:_MAX_REPORTS]:
        name = f"{TEMPORARY}/{base}"
        try:
            matches = not found and wanted in home.read(name, _HEAD_BYTES)
            if matches or time.time() - home.look(name).st_mtime > _STALE_S:
                home.remove(name)
        except OSError:  # gone, or no file at all
            continue
        found = found or matches
    return found
