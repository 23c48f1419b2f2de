"""Tickets: for a client that cannot send its key, a browser's WebSocket above all.

Each opens the events of one run once, and soon. They are in memory: a restart ends them, and
whoever held one asks for another.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from hutch.clock import Clock
from hutch.errors import Unauthorized

LIFE_S: Final = 30.0  # from asking for one to opening a connection with it
PER_USER: Final = 100  # the oldest goes
PREFIX: Final = "hutch_ticket_"


@dataclass(frozen=True, slots=True)
class Ticket:
    text: str
    user_id: str
    run_id: str
    expires_at: float


class Tickets:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._issued: OrderedDict[str, Ticket] = OrderedDict()  # all live equally long

    def issue(self, user_id: str, run_id: str) -> Ticket:
        """The caller has checked that the run is the user's."""
        now = self._clock.now()
        for text, ticket in [*self._issued.items()]:
            if ticket.expires_at > now:
                break
            del self._issued[text]
        own = [text for text, ticket in self._issued.items() if ticket.user_id == user_id]
        for text in own[: max(0, len(own) - PER_USER + 1)]:
            del self._issued[text]
        ticket = Ticket(PREFIX + secrets.token_urlsafe(32), user_id, run_id, now + LIFE_S)
        self._issued[ticket.text] = ticket
        return ticket

    def redeem(self, text: str, run_id: str) -> str:
        """Whose it is. It is used up, also when it is for another run. Raises ``Unauthorized``."""
        ticket = self._issued.pop(text, None)
        if ticket is None or ticket.run_id != run_id or ticket.expires_at <= self._clock.now():
            raise Unauthorized(
                "This ticket is used, too old, or not for this run.",
                hint="POST /v1/tickets gives another one.",
            )
        return ticket.user_id
