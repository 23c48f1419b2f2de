"""The end of a user: first the key that opens what is theirs, then everything else.

Each step may be the last before a crash. The user's own row goes at the end, so that the deletion
can be asked for again, and goes on with what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Final

import structlog

from hutch.accounts.agreements import Agreements
from hutch.accounts.models import User
from hutch.accounts.service import Accounts
from hutch.accounts.traces import Traces, traces_of
from hutch.errors import NotFound, Unavailable
from hutch.exits.service import Exits
from hutch.runs.service import Runs
from hutch.sandboxes.service import Sandboxes
from hutch.snapshots.service import Snapshots
from hutch.store.database import Database
from hutch.vault.service import Vault

_log = structlog.get_logger()

_CONTAINER_WITHIN_S: Final = 45.0  # for runs and container to end; shorter than a client waits


@dataclass(frozen=True, slots=True)
class Deleted:
    user: User
    data_key: str | None  # fingerprint of the key that was destroyed; None: there was none any more
    opens: bool  # whether what was sealed with it before could still be opened after
    traces: Traces  # what there was
    container: str | None


class Deletion:
    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        agreements: Agreements,
        vault: Vault,
        runs: Runs,
        *,
        sandboxes: Sandboxes,
        snapshots: Snapshots,
        exits: Exits,
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._agreements = agreements
        self._vault = vault
        self._runs = runs
        self._sandboxes = sandboxes
        self._snapshots = snapshots
        self._exits = exits

    async def delete(self, user_id: str) -> Deleted:
        """Raises ``NotFound``; ``Unavailable`` if the container does not end: then the key and all
        access are gone already, and the rest goes when it is asked for again.
        """
        user = await self._accounts.user(user_id)
        traces = await traces_of(self._database, user.id)
        shredded = await self._vault.shred(user.id)
        if shredded.opens:
            _log.error("credential.survived_its_key", user=user.id)
        await self._accounts.revoke_keys(user.id)
        try:
            async with asyncio.timeout(_CONTAINER_WITHIN_S):
                await self._runs.end_all(user.id)
                container = await self._end_container(user.id)
        except TimeoutError:
            raise Unavailable(
                "The user's key is destroyed, but their container does not end.",
                hint="`hutch doctor` looks for the cause; then delete the user once more.",
            ) from None
        await self._snapshots.discard(user.id)
        await self._exits.release(user.id)
        await self._accounts.delete_user(user.id)
        self._agreements.forget(user.id)
        # Prompts and answers, too, are then in no file of the database.
        await self._database.checkpoint()
        return Deleted(user, shredded.data_key, shredded.opens, traces, container)

    async def _end_container(self, user_id: str) -> str | None:
        """And, with it, its entry at the gateway."""
        with contextlib.suppress(NotFound):
            return (await self._sandboxes.destroy(user_id)).id
        return None
