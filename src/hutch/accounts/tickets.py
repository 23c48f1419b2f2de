"""Tickets: for a client that cannot send its key, a browser's WebSocket above all.

Each opens the events of one run, or a terminal, once, and soon. They are in memory: a restart ends
them, and whoever held one asks for another.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from hutch.accounts.models import ApiKey
from hutch.clock import Clock
from hutch.errors import Unauthorized

LIFE_S: Final = 30.0  # from asking for one to opening a connection with it
PER_USER: Final = 100  # the oldest goes
PREFIX: Final = "hutch_ticket_"
TERMINAL: Final = "terminal"  # any of the user's, or a new one


@dataclass(frozen=True, slots=True)
class Ticket:
    text: str
    user_id: str
    opens: str
    key: ApiKey  # that it was asked for with
    expires_at: float


class Tickets:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._issued: OrderedDict[str, Ticket] = OrderedDict()  # all live equally long

    def issue(self, user_id: str, opens: str, key: ApiKey) -> Ticket:
        """``opens``: a run's id, or ``TERMINAL``. The caller has checked that the user may."""
        now = self._clock.now()
        for text, ticket in [*self._issued.items()]:
            if ticket.expires_at > now:
                break
            del self._issued[text]
        own = [text for text, ticket in self._issued.items() if ticket.user_id == user_id]
        for text in own[: max(0, len(own) - PER_USER + 1)]:
            del self._issued[text]
        ticket = Ticket(PREFIX + secrets.token_urlsafe(32), user_id, opens, key, now + LIFE_S)
        self._issued[ticket.text] = ticket
        return ticket

    def redeem(self, text: str, opens: str) -> Ticket:
        """It is used up, also when it is for something else. Raises ``Unauthorized``."""
        ticket = self._issued.pop(text, None)
        if ticket is None or ticket.opens != opens or ticket.expires_at <= self._clock.now():
            raise Unauthorized(
                "This ticket is used, too old, or not for this.",
                hint="POST /v1/tickets gives another one.",
            )
        return ticket
