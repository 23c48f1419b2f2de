"""The logins of this sandbox: put in, followed as their CLI renews them, made by signing in.

While a provider has a login its agents pay with that, and not with the placeholder key.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from hutch_runtime.agents import Pool
from hutch_runtime.home import Home
from hutch_runtime.logins.claude import ClaudeSignIn
from hutch_runtime.logins.codex import CodexSignIn
from hutch_runtime.logins.files import LoginFile, Reading
from hutch_runtime.logins.sign_in import Invitation, SignIn, SignInFailed
from hutch_runtime.protocol import LOGIN_FILES, Provider
from hutch_runtime.providers import open_driver
from hutch_runtime.providers.base import Setup

_log = logging.getLogger(__name__)

RENEWED: Final = "the CLI was started again with another login"
SIGN_IN_S: Final = 15 * 60.0  # what both services give a person
# Codex writes its file in place: what two reads so far apart have in common is written.
SETTLED_S: Final = 0.05
# A file that stays half written so long was left so by a CLI that was killed.
TORN_S: Final = 2.0
# How soon a renewed token is seen. CLIs renew them in turns; a look is one lstat.
LOOK_BUSY_S: Final = 0.02
LOOK_IDLE_S: Final = 0.25
HISTORY_MAX: Final = 64

SignInState: TypeAlias = Literal["none", "pending", "done", "failed"]


@dataclass(slots=True)
class Pending:
    """The last sign-in."""

    state: SignInState = "none"
    reason: str = ""
    invitation: Invitation = field(default_factory=lambda: Invitation("", ""))
    expires_at: float = 0.0
    sign_in: SignIn | None = None
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Login:
    file: LoginFile
    on: bool = False  # agents use it
    taken: bool = False  # the orchestrator knows of it: it gave it, or has stored it
    # SHA-256 of every content that was given or handed out: what the orchestrator may have stored.
    history: OrderedDict[str, None] = field(default_factory=OrderedDict)
    pending: Pending = field(default_factory=Pending)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def remember(self, sha256: str) -> None:
        self.history[sha256] = None
        self.history.move_to_end(sha256)
        while len(self.history) > HISTORY_MAX:
            self.history.popitem(last=False)


class Logins:
    def __init__(self, setup: Callable[[Provider], Setup], pool: Pool, home: Home) -> None:
        self._setup = setup
        self._pool = pool
        self._logins = {provider: Login(LoginFile(provider, home)) for provider in LOGIN_FILES}
        self._closing = False

    def get(self, provider: Provider) -> Login:
        return self._logins[provider]

    async def put(self, provider: Provider, content: bytes) -> None:
        """Take it for this provider's agents, which are started again unless it is the one that
        they have. Raises ``OSError``.
        """
        login = self._logins[provider]
        async with login.changing:
            await self._end_sign_in(login)
            known = login.on and login.file.glance().content == content
            if not known:
                login.file.write(content)
            reading = login.file.glance().reading(provider)
            if reading is not None:
                login.remember(reading.sha256)
            login.taken = True
            if not known:
                await self._switch(login, on=True)

    def take(self, provider: Provider, sha256: str) -> None:
        """The orchestrator says that it has stored this content."""
        login = self._logins[provider]
        login.remember(sha256)
        login.taken = True

    async def remove(self, provider: Provider) -> None:
        """Back to the placeholder key; also ends a sign-in."""
        login = self._logins[provider]
        async with login.changing:
            await self._end_sign_in(login)
            login.pending = Pending()
            if login.on:
                await self._switch(login, on=False)
            login.file.remove()
            login.taken = False
            login.history.clear()

    async def restart(self, provider: Provider, reason: str) -> None:
        """Start its agents again, with the login that they have."""
        login = self._logins.get(provider)
        if login is None:
            driver = open_driver(provider, self._setup(provider))
            await self._pool.renew(provider, driver, reason)
            return
        async with login.changing:
            await self._switch(login, on=login.on, reason=reason)

    async def changed(self, provider: Provider, after: str, *, wait_s: float) -> Reading:
        """The file once it is another than ``after`` (a SHA-256); as it is when time is over."""
        login = self._logins[provider]
        until = time.monotonic() + wait_s
        while True:
            reading = await self._settled(login, after)
            if reading.sha256 != after or time.monotonic() >= until:
                if reading.state == "present":
                    login.remember(reading.sha256)
                return reading
            seen = login.file.changed_at()
            while login.file.changed_at() == seen and time.monotonic() < until:
                if self._closing:
                    return reading
                await self._pool.pause(provider, busy_s=LOOK_BUSY_S, idle_s=LOOK_IDLE_S)

    async def start(self, provider: Provider) -> Pending:
        """Begin a sign-in, in place of an earlier one. Raises ``SignInFailed``."""
        login = self._logins[provider]
        async with login.changing:
            await self._end_sign_in(login)
            before = login.file.glance()
            setup = replace(self._setup(provider), login=True)
            sign_in: SignIn = CodexSignIn(setup) if provider == "codex" else ClaudeSignIn(setup)
            try:
                invitation = await sign_in.start()
            except BaseException:
                await sign_in.close()
                raise
            login.taken = False
            login.pending = Pending(
                "pending", "", invitation, time.time() + SIGN_IN_S, sign_in, None
            )
            carrying = self._carry_through(login, login.pending, sign_in, before.content)
            login.pending.task = asyncio.get_running_loop().create_task(carrying)
            return login.pending

    def enter(self, provider: Provider, code: str) -> None:
        """Raises ``SignInFailed``."""
        pending = self._logins[provider].pending
        if pending.sign_in is None or pending.state != "pending":
            raise SignInFailed("No sign-in is under way.")
        pending.sign_in.enter(code)

    async def close(self) -> None:
        """End sign-ins, and let those who wait for a change have the answer as it is."""
        self._closing = True
        for login in self._logins.values():
            await self._end_sign_in(login)

    async def _settled(self, login: Login, after: str) -> Reading:
        """What two reads in a row agree on."""
        provider = login.file.provider
        first = login.file.glance()
        torn_since = time.monotonic()
        while True:
            reading = first.reading(provider)
            if reading is not None and reading.sha256 == after:
                return reading
            await asyncio.sleep(SETTLED_S)
            second = login.file.glance()
            if second != first:
                torn_since = time.monotonic()
            elif reading is not None:
                return reading
            elif time.monotonic() - torn_since > TORN_S:
                return first.unusable()
            first = second

    async def _switch(self, login: Login, *, on: bool, reason: str = RENEWED) -> None:
        login.on = on
        provider = login.file.provider
        setup = replace(self._setup(provider), login=on)
        await self._pool.renew(provider, open_driver(provider, setup), reason)

    async def _carry_through(
        self, login: Login, pending: Pending, sign_in: SignIn, before: bytes | None
    ) -> None:
        try:
            failed = ""
            try:
                async with asyncio.timeout(SIGN_IN_S):
                    await sign_in.completed()
            except SignInFailed as error:
                failed = str(error)
            except TimeoutError:
                failed = f"Nobody signed in within {SIGN_IN_S / 60:.0f} minutes."
            # The file is what counts: Codex also calls it a failure when it has a login and could
            # not ask for the account's workspaces.
            reading = await self._settled(login, "")
            if reading.state == "present" and reading.content != before:
                await self._switch(login, on=True)
                pending.state = "done"
            else:
                pending.state, pending.reason = "failed", failed or "It left no login behind."
        except asyncio.CancelledError:
            pending.state, pending.reason = "failed", "It was ended."
            raise
        finally:
            await sign_in.close()

    async def _end_sign_in(self, login: Login) -> None:
        task = login.pending.task
        if task is not None and not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
