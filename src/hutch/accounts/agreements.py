"""Who has accepted which text, and what may not be done without."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from hutch.accounts.documents import CLAUDE_SESSION_TOKEN, Document
from hutch.clock import Clock
from hutch.errors import AgreementRequired, Conflict, CredentialNotAllowed, NotFound
from hutch.store.database import Database
from hutch.store.tables import agreements as table

_LEGAL: Final = "docs/legal.md says why. An API key needs none of this."


@dataclass(frozen=True, slots=True)
class Agreement:
    """A document as one user sees it."""

    document: str
    version: str
    text: str
    required: bool
    accepted_at: float | None  # of this version


class Agreements:
    def __init__(self, database: Database, clock: Clock, documents: Sequence[Document]) -> None:
        self._database = database
        self._clock = clock
        self._documents = {document.name: document for document in documents}
        self._required = [document for document in documents if document.required]
        # Who has accepted all that is required, so that a prompt costs no query.
        self._cleared: set[str] = set()

    async def of(self, user_id: str) -> list[Agreement]:
        accepted = await self._accepted(user_id)
        return [
            Agreement(
                document.name,
                document.version,
                document.text,
                document.required,
                accepted.get((document.name, document.version)),
            )
            for document in self._documents.values()
        ]

    async def accept(self, user_id: str, name: str, version: str) -> Agreement:
        """Recorded once, with the time of the first. Raises ``NotFound``, and ``Conflict`` if the
        text is another one by now.
        """
        document = self._documents.get(name)
        if document is None:
            raise NotFound(
                f"There is no document {name!r} to accept here.",
                hint="GET /v1/agreements lists them.",
            )
        if version != document.version:
            raise Conflict(
                "The text has another version now.",
                hint="GET /v1/agreements has the present text: read that, and accept its version.",
            )
        with contextlib.suppress(IntegrityError):  # accepted before: the first time counts
            await self._database.write(
                insert(table).values(
                    user_id=user_id,
                    document=name,
                    version=version,
                    accepted_at=self._clock.now(),
                )
            )
        return next(one for one in await self.of(user_id) if one.document == name)

    async def require(self, user_id: str) -> None:
        """Before a run. Raises ``AgreementRequired``."""
        if not self._required or user_id in self._cleared:
            return
        accepted = await self._accepted(user_id)
        for document in self._required:
            if (document.name, document.version) not in accepted:
                raise AgreementRequired(
                    "The operator's agreement has not been accepted in its present version.",
                    hint="`hutch agreements` shows it; `hutch agreements accept "
                    f"{document.name} {document.version}`, or POST /v1/agreements, accepts it.",
                )
        self._cleared.add(user_id)

    async def permit_session_token(self, user_id: str) -> None:
        """Before a Claude session token is stored. Raises ``CredentialNotAllowed``."""
        document = self._documents.get(CLAUDE_SESSION_TOKEN)
        if document is None:
            raise CredentialNotAllowed(
                "Claude session tokens are switched off here: Anthropic's terms keep services "
                "from storing them.",
                hint=f"{_LEGAL} The operator can set HUTCH_CLAUDE_SESSION_TOKENS=true.",
            )
        if (document.name, document.version) not in await self._accepted(user_id):
            raise CredentialNotAllowed(
                "A Claude session token is stored only for users who have accepted the terms.",
                hint="`hutch agreements` shows them; `hutch agreements accept "
                f"{document.name} {document.version}`, or POST /v1/agreements. {_LEGAL}",
            )

    def forget(self, user_id: str) -> None:
        """They were deleted."""
        self._cleared.discard(user_id)

    async def _accepted(self, user_id: str) -> dict[tuple[str, str], float]:
        rows = await self._database.all(select(table).where(table.c.user_id == user_id))
        return {(row.document, row.version): row.accepted_at for row in rows}
