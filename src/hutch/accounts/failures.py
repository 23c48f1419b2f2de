"""Wrong keys, counted by the address that they came from.

A key has 256 random bits: nobody guesses one, at whatever rate. What this keeps short is the cost
of those who try, and what they can write into logs. So it never stands in the way of a right key:
whoever shares an address with them, behind a proxy or a NAT, is not locked out.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from hutch.clock import Clock
from hutch.errors import TooManyFailures

AT_ONCE: Final = 20  # then one each ``EVERY_S``: a misconfigured client is told 401 for long enough
EVERY_S: Final = 6.0
ADDRESSES_MAX: Final = 10_000  # about 2 MB; the one that was quiet longest is forgotten first


class FailedKeys:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # When the address would have no failure left to its name, in Unix seconds.
        self._paid_off: OrderedDict[str, float] = OrderedDict()

    def note(self, address: str) -> None:
        """One more. Raises ``TooManyFailures``, for which it does not count."""
        now = self._clock.now()
        paid_off = max(self._paid_off.pop(address, now), now)
        # A clock that was set back must not shut anybody out for long.
        paid_off = min(paid_off, now + AT_ONCE * EVERY_S)
        wait_s = paid_off + EVERY_S - now - AT_ONCE * EVERY_S
        self._paid_off[address] = paid_off + (EVERY_S if wait_s <= 0 else 0)
        if len(self._paid_off) > ADDRESSES_MAX:
            self._paid_off.popitem(last=False)
        if wait_s > 0:
            raise TooManyFailures(
                "Too many wrong API keys came from your address.",
                hint="Check the key; a right one is let in at once.",
                retry_after_s=math.ceil(wait_s),
            )
