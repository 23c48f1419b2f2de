"""Which hosts a user's sandbox may reach besides its model APIs: the operator's, and their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import bindparam, delete, insert, select

from hutch.clock import Clock
from hutch.errors import HostNotReady, InvalidRequest
from hutch.gateway.names import parse_rule, rule_text
from hutch.gateway.table import HostRule
from hutch.store.database import Database
from hutch.store.tables import allowed_hosts as table

RULES_MAX: Final = 100  # of a user
_SMTP: Final = 25  # mail that nobody asked for would come from the operator's address

_OWN: Final = (
    select(table).where(table.c.user_id == bindparam("owner")).order_by(table.c.host, table.c.port)
)


class AllowedHosts:
    """``always`` are the operator's rules, as ``HUTCH_EGRESS_ALLOW`` has them. Raises
    ``HostNotReady`` for one that cannot be read.
    """

    def __init__(self, database: Database, clock: Clock, always: Iterable[str]) -> None:
        self._database = database
        self._clock = clock
        self.always = tuple(_operators(text) for text in always)

    async def own(self, user_id: str) -> list[HostRule]:
        """What the user has allowed, in alphabetical order."""
        rows = await self._database.all(_OWN, owner=user_id)
        return [HostRule(row.host, row.port) for row in rows]

    async def of(self, user_id: str) -> tuple[HostRule, ...]:
        """All rules that hold for the user."""
        return tuple(dict.fromkeys((*self.always, *await self.own(user_id))))

    async def replace(self, user_id: str, texts: Sequence[str]) -> list[HostRule]:
        """Take these in place of the user's former ones. Raises ``InvalidRequest``, and then
        changes nothing.
        """
        if len(texts) > RULES_MAX:
            raise InvalidRequest(
                f"A user has at most {RULES_MAX} rules.", hint="*.example.org allows all below it."
            )
        rules = list(dict.fromkeys(_users(text) for text in texts))
        now = self._clock.now()
        await self._database.write(
            delete(table).where(table.c.user_id == user_id),
            *(
                insert(table).values(
                    user_id=user_id, host=rule.host, port=rule.port, created_at=now
                )
                for rule in rules
            ),
        )
        return await self.own(user_id)


def _users(text: str) -> HostRule:
    try:
        rule = parse_rule(text)
    except InvalidRequest as error:
        hint = error.hint or "host, *.host or an address, with :port if it is not 443."
        raise InvalidRequest(f"{text[:100]!r}: {error.message}", hint=hint) from None
    if rule.port == _SMTP:
        raise InvalidRequest(
            f"{rule_text(rule)!r}: no sandbox sends mail by port {_SMTP}.",
            hint="A mail provider's port for its own customers is 465 or 587.",
        )
    return rule


def _operators(text: str) -> HostRule:
    try:
        return parse_rule(text)
    except InvalidRequest as error:
        raise HostNotReady(
            f"HUTCH_EGRESS_ALLOW: {text!r}: {error.message}",
            hint="Rules with commas between them: host, *.host or host:port.",
        ) from None
