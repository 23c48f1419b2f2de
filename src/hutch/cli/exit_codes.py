"""With what `hutch` ends, as in ``docs/cli.md``. Scripts rely on them: they do not change."""

from __future__ import annotations

from typing import Final

from hutch import client
from hutch.cli.profile import NoKey
from hutch.errors import HutchError, InvalidRequest, NotFound

OK: Final = 0
FAILED: Final = 1  # the run did, or a check has found something
INVALID: Final = 2  # also what typer ends with for options that it does not know
NOT_FOUND: Final = 3
REFUSED: Final = 4  # no key, a wrong one, or one that may not
CONFLICT: Final = 5
UNAVAILABLE: Final = 6
LIMITED: Final = 7
INTERRUPTED: Final = 130  # as a shell counts it: 128 and SIGINT

_OF_CLIENT: Final[tuple[tuple[type[client.ClientError], int], ...]] = (
    (client.Invalid, INVALID),
    (client.NotFound, NOT_FOUND),
    (client.Unauthorized, REFUSED),
    (client.Forbidden, REFUSED),
    (client.Conflict, CONFLICT),
    (client.RateLimited, LIMITED),
    (client.Unavailable, UNAVAILABLE),
    (client.Unreachable, UNAVAILABLE),
    (client.UnexpectedAnswer, UNAVAILABLE),
)


def of(error: client.ClientError | HutchError) -> int:
    if isinstance(error, HutchError):
        kinds = {InvalidRequest: INVALID, NotFound: NOT_FOUND, NoKey: REFUSED}
        return next((code for kind, code in kinds.items() if isinstance(error, kind)), FAILED)
    return next((code for kind, code in _OF_CLIENT if isinstance(error, kind)), FAILED)
