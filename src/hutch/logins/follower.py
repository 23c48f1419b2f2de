"""One login in one sandbox: given to its CLI, and stored again whenever that has renewed it.

Refresh tokens are single-use, so a renewal that is not stored is lost with the container. What the
vault holds and what the container holds are told apart by content: the runtime knows every content
that it was given and that it told us. If the vault's is one of these, the container's is the newer
one and goes into the vault; if not, somebody has stored another, and that goes into the container.
So it does not matter when this process died.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import structlog

from hutch.errors import Conflict, HutchError, NotFound
from hutch.logins.runtime import NOTHING_SHA256, WAIT_S, LoginRuntime, Seen
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.runtime_client import RuntimeRefused, RuntimeUnreachable
from hutch.vault.service import Vault
from hutch_runtime.protocol import LOGIN_FILES, Provider

_log = structlog.get_logger()

RETRY_FIRST_S: Final = 0.1
RETRY_MAX_S: Final = 5.0
# A sandbox without a login is asked once whether one came about while nobody looked; not at the
# moment of its first prompt.
_LEFTOVER_AFTER_S: Final = 2.0
# Stored in place of a login that may not be stored: it is in the container alone.
_NOT_KEPT: Final = b""

DEAD: Final = "The provider does not renew this login any more."
BLANKED: Final = "The CLI has emptied its login: the provider refused to renew it."
REMOVED: Final = "The login's file was removed in the container."
LOST: Final = "The login was in the container alone (docs/legal.md), and that has ended."
TWO_WRITERS: Final = "Two containers have renewed this login; one of the two was logged out."


class World(Protocol):
    """What a follower needs besides vault and runtime."""

    async def owns(self, sandbox: Sandbox) -> bool:
        """Whether it is its user's sandbox still, and not one that has had a successor."""
        ...

    async def may_keep(self, user_id: str, provider: Provider) -> bool:
        """Whether this provider's logins may be stored at all."""
        ...

    async def changed(self, user_id: str) -> None:
        """The user's credential is of another kind now."""
        ...


@dataclass(frozen=True, slots=True)
class _Stored:
    content: bytes
    version: int
    created_at: float  # of the sign-in: a renewal keeps it
    needs_login: str  # why; "" when it does not


class Follower:
    def __init__(
        self,
        sandbox: Sandbox,
        provider: Provider,
        *,
        vault: Vault,
        runtime: LoginRuntime,
        world: World,
        before_sign_in: str | None,
        anew: bool,
    ) -> None:
        """``before_sign_in``: a sign-in has begun; the SHA-256 of what was there before it.
        ``anew``: the user's credential was changed just now; no prompt may go before that has been
        done in the sandbox too.
        """
        self.sandbox = sandbox
        self.provider = provider
        self.placed = asyncio.Event()  # the sandbox has what it needs for a prompt
        self.following = False
        self.renewals = 0
        self._vault = vault
        self._runtime = runtime
        self._world = world
        self._signing_in = before_sign_in is not None
        self._before_sign_in = before_sign_in
        self._anew = anew
        self._version: int | None = None
        self._created_at = 0.0
        self._sha256 = NOTHING_SHA256  # of the content that needs nothing done any more
        self._not_kept = False
        self._reason = ""
        self._writing = asyncio.Lock()

    @property
    def needs_login(self) -> str:
        """Why; "" when it does not, or when there is no login."""
        return self._reason

    @property
    def is_login(self) -> bool:
        return self._version is not None

    async def run(self) -> None:
        """Until there is nothing to follow, or for ever."""
        delay_s = RETRY_FIRST_S
        begun = False
        while True:
            try:
                if not begun:
                    begun = await self._begin()
                    self.placed.set()
                    if not begun:
                        return
                self.following = True
                seen = await self._see(wait_s=WAIT_S)
                if await self._take(seen) == "again":
                    begun = False
                elif self._signing_in and seen.sha256 == self._sha256:
                    self._signing_in = await self._is_pending()
                    if not self._signing_in and self._version is None:
                        return
                delay_s = RETRY_FIRST_S
            except (RuntimeUnreachable, RuntimeRefused):
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_MAX_S)
            except HutchError as error:  # the vault's key provider, say; nothing is given up
                _log.warning(
                    "login.not_stored",
                    user=self.sandbox.owner,
                    provider=self.provider,
                    error=error.code,
                )
                await asyncio.sleep(RETRY_MAX_S)
            finally:
                self.following = False

    async def flush(self) -> None:
        """Store what the container has now. Raises like ``run`` does not."""
        if self.placed.is_set() and (self.is_login or self._signing_in):
            await self._take(await self._see(wait_s=0))

    async def refused(self) -> bool:
        """The provider has refused what the CLI paid with. False if that was no login."""
        if self._version is None:
            return False
        await self._need_login(DEAD)
        return True

    async def ended(self) -> None:
        """The container is gone, and what was in it alone."""
        if self._not_kept:
            await self._need_login(LOST)

    async def _begin(self) -> bool:
        """Make vault and container agree. False when there is nothing to follow."""
        stored = await self._stored()
        if stored is None:
            self._version = None
            return await self._begin_without()
        self._version, self._created_at = stored.version, stored.created_at
        self._reason, self._not_kept = stored.needs_login, stored.content == _NOT_KEPT
        seen = await self._see(wait_s=0)
        self._signing_in = self._signing_in or await self._is_pending()
        if self._not_kept:
            self._sha256 = self._old(seen)
            if seen.state != "present" and not self._reason:
                await self._need_login(LOST)
        elif hashlib.sha256(stored.content).hexdigest() in seen.history and seen.on:
            self._sha256 = hashlib.sha256(stored.content).hexdigest()
        elif self._reason:
            self._sha256 = self._old(seen)  # it opens nothing; a new one will be seen
        else:
            await self._runtime.put(self.sandbox, self.provider, stored.content)
            self._sha256 = hashlib.sha256(stored.content).hexdigest()
        return True

    async def _begin_without(self) -> bool:
        """No login is stored. One may have been, or may be about to come."""
        if self._signing_in:
            self.placed.set()
            self._sha256 = self._old(await self._see(wait_s=0))
            return True
        if not self._anew:
            self.placed.set()
            await asyncio.sleep(_LEFTOVER_AFTER_S)
        seen = await self._see(wait_s=0)
        if seen.on and seen.taken:  # it was deleted, or replaced by a key, while nobody looked
            await self._runtime.remove(self.sandbox, self.provider)
            return False
        self._signing_in = seen.on or await self._is_pending()
        if self._signing_in and not seen.on:
            self._sha256 = seen.sha256
        return self._signing_in

    def _old(self, seen: Seen) -> str:
        """The content that needs nothing done. Not what a sign-in has left: a quick one may be over
        by now, and one that nobody stored may have been made before a restart of ours.
        """
        if seen.state == "present" and seen.on and not seen.taken:
            self._signing_in = True
            return NOTHING_SHA256
        if self._signing_in and self._before_sign_in is not None:
            return self._before_sign_in
        return seen.sha256

    async def _take(self, seen: Seen) -> Literal["done", "again"]:
        """Bring what was seen into the vault. "again": somebody stored another one."""
        async with self._writing:
            if seen.sha256 == self._sha256:
                return "done"
            if seen.state == "present":
                return await self._store(seen)
            if self._version is not None and not self._reason:
                await self._need_login(BLANKED if seen.state == "blanked" else REMOVED)
            self._sha256 = seen.sha256
            return "done"

    async def _store(self, seen: Seen) -> Literal["done", "again"]:
        if not await self._world.owns(self.sandbox):
            _log.warning("login.stale_writer", sandbox=self.sandbox.id, provider=self.provider)
            self._sha256 = seen.sha256
            return "done"
        keep = await self._world.may_keep(self.sandbox.owner, self.provider)
        fresh = self._signing_in and (seen.on or self._version is None)
        if fresh or keep:
            content = seen.content if keep else _NOT_KEPT
            try:
                info = await self._vault.put_login(
                    self.sandbox.owner,
                    self.provider,
                    {LOGIN_FILES[self.provider]: content},
                    expected_version=None if fresh else self._version,
                )
            except Conflict:
                return await self._conflict(seen)
            self._version, self._created_at = info.version, info.created_at
            self._reason, self._not_kept = "", not keep
            self.renewals += not fresh
            _log.info("login.stored", user=self.sandbox.owner, provider=self.provider, new=fresh)
        self._sha256 = seen.sha256
        if fresh:
            self._signing_in = False
            await self._world.changed(self.sandbox.owner)
        await self._runtime.taken(self.sandbox, self.provider, seen.sha256)
        return "done"

    async def _conflict(self, seen: Seen) -> Literal["done", "again"]:
        """The vault holds another version than the one that the CLI was given."""
        stored = await self._stored()
        if stored is None or stored.created_at != self._created_at:
            return "again"  # a new sign-in, or a key: the user's own doing
        self._version = stored.version
        if hashlib.sha256(stored.content).hexdigest() in seen.history:
            return await self._store(seen)  # we stored it ourselves, and did not live to know
        await self._need_login(TWO_WRITERS)
        self._sha256 = seen.sha256
        return "done"

    async def _need_login(self, reason: str) -> None:
        """Unless the user has stored another one meanwhile."""
        user_id = self.sandbox.owner
        if await self._vault.set_state(
            user_id, self.provider, "needs_login", reason, expected_version=self._version
        ):
            self._reason = reason
            _log.warning("login.needed", user=user_id, provider=self.provider, reason=reason)

    async def _stored(self) -> _Stored | None:
        try:
            while True:
                info = await self._vault.info(self.sandbox.owner, self.provider)
                if info.kind != "login":
                    return None
                files, version = await self._vault.login_files(self.sandbox.owner, self.provider)
                if version == info.version:
                    break
        except NotFound:
            return None
        reason = info.reason if info.state == "needs_login" else ""
        content = files.get(LOGIN_FILES[self.provider], _NOT_KEPT)
        return _Stored(content, version, info.created_at, reason)

    async def _see(self, *, wait_s: int) -> Seen:
        return await self._runtime.seen(
            self.sandbox, self.provider, after=self._sha256, wait_s=wait_s
        )

    async def _is_pending(self) -> bool:
        return (await self._runtime.sign_in(self.sandbox, self.provider)).state == "pending"
