"""When to try again, and how long to wait before."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from hutch.client.errors import ApiError, ClientError, NotSent, RateLimited, Unreachable

_FIRST_S: Final = 0.1
_LONGEST_S: Final = 5.0  # a service that restarts is back in a few seconds
# Of the service: nothing was done, and trying again is right. "unknown" is a proxy's own page.
_PASSING: Final = frozenset({"unavailable", "database_unavailable", "unknown"})


class Patience:
    """Of one call, or of one stream until it makes progress again: tries until ``for_s`` seconds
    after the first failure, with pauses that double, or as the service has asked for.
    """

    def __init__(self, for_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._for_s = for_s
        self._clock = clock
        self._since: float | None = None
        self._pause = _FIRST_S

    def progress(self) -> None:
        self._since = None
        self._pause = _FIRST_S

    def pause_after(self, error: ClientError, *, repeatable: bool) -> float:
        """Seconds to wait before the next try. Raises ``error`` when there is none."""
        if not _worth_it(error, repeatable=repeatable):
            raise error
        now = self._clock()
        self._since = now if self._since is None else self._since
        pause = error.retry_after
        if pause is None:
            # Between half and all of it, so that all who were cut off do not come back at once.
            pause = self._pause * random.uniform(0.5, 1)  # noqa: S311  no secret
            self._pause = min(self._pause * 2, _LONGEST_S)
        if now + pause > self._since + self._for_s:
            raise error
        return pause


def _worth_it(error: ClientError, *, repeatable: bool) -> bool:
    if isinstance(error, NotSent):
        return True
    if isinstance(error, RateLimited):  # nothing was stored; a wrong key does not become right
        return error.retry_after is not None and error.code != "too_many_failures"
    if isinstance(error, Unreachable):
        return repeatable
    if isinstance(error, ApiError) and error.status in {502, 503, 504}:
        return repeatable and error.code in _PASSING
    return False
