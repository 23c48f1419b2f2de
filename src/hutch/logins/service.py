"""Logins: signing in, and one follower for each provider in each running sandbox.

Nothing here is remembered over a restart: followers are made again from the sandboxes' rows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar
from urllib.parse import urlsplit

import structlog

from hutch.errors import (
    CredentialNotAllowed,
    InvalidRequest,
    NeedsLogin,
    NotFound,
    SandboxFailed,
)
from hutch.logins.follower import Follower
from hutch.logins.runtime import NOTHING_SHA256, LoginRuntime, SignIn
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.runtime_client import RuntimeClient, RuntimeRefused, RuntimeUnreachable
from hutch.sandboxes.service import Sandboxes
from hutch.vault.service import Vault
from hutch_runtime.protocol import LOGIN_FILES, Provider

_log = structlog.get_logger()
_T = TypeVar("_T")

# For a sandbox to get its login: its agents are started again with it.
READY_S: Final = 40.0
FLUSH_S: Final = 5.0  # before a container ends; one that does not answer has to end as well
# Where people are sent to sign in; a container must not send them anywhere else.
SIGN_IN_HOSTS: Final = frozenset(
    {
        "auth.openai.com",
        "chatgpt.com",
        "claude.ai",
        "claude.com",
        "console.anthropic.com",
        "platform.claude.com",
    }
)


@dataclass(slots=True)
class _Attached:
    """The followers of one incarnation, and their tasks."""

    sandbox: Sandbox
    followers: dict[Provider, Follower] = field(default_factory=dict)
    tasks: dict[Provider, asyncio.Task[None]] = field(default_factory=dict)


class Logins:
    def __init__(
        self,
        vault: Vault,
        runtime: RuntimeClient,
        sandboxes: Callable[[], Sandboxes],
        *,
        permit_claude: Callable[[str], Awaitable[None]],
        changed: Callable[[str], Awaitable[None]],
        sign_in_hosts: frozenset[str] = SIGN_IN_HOSTS,
    ) -> None:
        """``permit_claude`` raises ``CredentialNotAllowed`` for a user whose Claude login may not
        be stored; ``changed`` is told of users whose credential is another one now.
        """
        self._vault = vault
        self._runtime = LoginRuntime(runtime)
        self._sandboxes = sandboxes
        self._permit_claude = permit_claude
        self._changed = changed
        self._sign_in_hosts = sign_in_hosts
        self._attached: dict[str, _Attached] = {}  # by incarnation
        self._farewells: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Let go of all; whatever a CLI renews from now on is found at the next start."""
        tasks = [task for one in self._attached.values() for task in one.tasks.values()]
        for task in (*tasks, *self._farewells):
            task.cancel()
        await asyncio.gather(*tasks, *self._farewells, return_exceptions=True)

    def sandbox_changed(self, sandbox: Sandbox) -> None:
        """The reconciler's word that the row is now this; may be said twice."""
        if sandbox.observed == "running" and sandbox.desired == "running":
            self._attach(sandbox)
        elif sandbox.observed != "running" and (
            attached := self._attached.pop(sandbox.incarnation, None)
        ):
            for task in attached.tasks.values():
                task.cancel()
            if sandbox.live:  # frozen
                return
            for follower in attached.followers.values():
                farewell = asyncio.create_task(follower.ended())
                self._farewells.add(farewell)
                farewell.add_done_callback(self._farewells.discard)

    async def ready(self, sandbox: Sandbox, provider: Provider) -> None:
        """Before a prompt: the sandbox has the user's login, if that is what they have. Costs
        nothing where it is not. Raises ``NeedsLogin``, ``SandboxFailed``.
        """
        if provider not in LOGIN_FILES:
            return
        follower = self._attach(sandbox).followers[provider]
        if not follower.placed.is_set():
            try:
                async with asyncio.timeout(READY_S):
                    await follower.placed.wait()
            except TimeoutError:
                raise SandboxFailed(
                    f"The login for {provider} could not be put into the sandbox.",
                    hint="Try again; the service's log says more.",
                ) from None
        if follower.needs_login:
            raise needs_login(provider, follower.needs_login)

    async def refused(self, sandbox: Sandbox, provider: Provider) -> NeedsLogin | None:
        """The provider has refused a run of this sandbox. If it was paid by a login, that needs a
        new sign-in; None if it was not.
        """
        attached = self._attached.get(sandbox.incarnation)
        follower = attached.followers.get(provider) if attached else None
        if follower is None:
            return None
        with contextlib.suppress(RuntimeUnreachable, RuntimeRefused):
            await follower.flush()  # the CLI may have said why, by blanking its file
        if not await follower.refused():
            return None
        return needs_login(provider, follower.needs_login)

    async def flush(self, sandbox: Sandbox) -> None:
        """Before a sandbox is ended, frozen or hibernated: store what its CLIs have renewed. Takes
        ``FLUSH_S`` at most, and never fails.
        """
        attached = self._attach(sandbox)
        try:
            async with asyncio.timeout(FLUSH_S):
                for follower in attached.followers.values():
                    await follower.placed.wait()
                    await follower.flush()
        except Exception as error:  # noqa: BLE001  whatever it is, the sandbox has to end; it is logged
            _log.warning("login.not_flushed", sandbox=sandbox.id, error=type(error).__name__)

    async def credentials_changed(self, user_id: str) -> None:
        """Somebody has stored or deleted one: the sandbox gets what there is now."""
        for attached in [a for a in self._attached.values() if a.sandbox.user_id == user_id]:
            for provider in LOGIN_FILES:
                await self._follow(attached, provider, before_sign_in=None)

    async def start(self, user_id: str, provider: Provider) -> SignIn:
        """Begin the CLI's own sign-in in the user's sandbox, in place of an earlier one. Raises
        ``InvalidRequest``, ``SandboxFailed``.
        """
        check_provider(provider)
        sandbox = await self._sandboxes().ensure(user_id)
        attached = self._attach(sandbox)
        before = await self._asking(
            self._runtime.seen(sandbox, provider, after=NOTHING_SHA256, wait_s=0)
        )
        started = await self._asking(self._runtime.start(sandbox, provider))
        host = urlsplit(started.url).hostname or ""
        if host not in self._sign_in_hosts or "@" in started.url:
            await self.cancel(user_id, provider)
            raise SandboxFailed(
                f"The sign-in led to {host!r}, where nobody signs in to {provider}.",
                hint="DELETE /v1/container, then try again in a new one.",
            )
        await self._follow(attached, provider, before_sign_in=before.sha256)
        return started

    async def sign_in(self, user_id: str, provider: Provider) -> SignIn:
        """How it goes. It is ``done`` once the login is stored. Raises ``NotFound``."""
        sandbox = await self._running(user_id, provider)
        found = await self._asking(self._runtime.sign_in(sandbox, provider))
        if found.state == "done":
            follower = self._attach(sandbox).followers[provider]
            with contextlib.suppress(RuntimeUnreachable, RuntimeRefused):
                await follower.flush()
            if not follower.is_login:
                return replace(found, state="pending")
        return found

    async def enter(self, user_id: str, provider: Provider, code: str) -> None:
        """The code that the sign-in's page has shown. Raises ``NotFound``, ``InvalidRequest``."""
        sandbox = await self._running(user_id, provider)
        await self._asking(self._runtime.enter(sandbox, provider, code))

    async def cancel(self, user_id: str, provider: Provider) -> None:
        """End a sign-in that is under way; a login that was there before stays stored, and is put
        back. Raises ``NotFound``.
        """
        sandbox = await self._running(user_id, provider)
        attached = self._attach(sandbox)
        with contextlib.suppress(RuntimeUnreachable, RuntimeRefused):
            await attached.followers[provider].flush()
        await self._stop(attached, provider)
        try:
            await self._asking(self._runtime.remove(sandbox, provider))
        finally:
            self._begin(attached, provider, before_sign_in=None, anew=True)

    def report(self) -> dict[str, int]:
        followers = [f for a in self._attached.values() for f in a.followers.values()]
        return {
            "logins": sum(f.is_login for f in followers),
            "following": sum(f.following and f.is_login for f in followers),
            "renewals": sum(f.renewals for f in followers),
            "need_login": sum(bool(f.needs_login) for f in followers),
        }

    async def owns(self, sandbox: Sandbox) -> bool:
        try:
            return (await self._sandboxes().of(sandbox.owner)).incarnation == sandbox.incarnation
        except NotFound:
            return False

    async def may_keep(self, user_id: str, provider: Provider) -> bool:
        if provider != "claude":
            return True
        try:
            await self._permit_claude(user_id)
        except CredentialNotAllowed:
            return False
        return True

    async def changed(self, user_id: str) -> None:
        await self._changed(user_id)

    def _attach(self, sandbox: Sandbox) -> _Attached:
        attached = self._attached.get(sandbox.incarnation)
        if attached is None:
            attached = self._attached[sandbox.incarnation] = _Attached(sandbox)
            for provider in LOGIN_FILES:
                self._begin(attached, provider, before_sign_in=None, anew=False)
        return attached

    async def _follow(
        self, attached: _Attached, provider: Provider, *, before_sign_in: str | None
    ) -> None:
        """Anew, from what the vault says now."""
        await self._stop(attached, provider)
        self._begin(attached, provider, before_sign_in=before_sign_in, anew=True)

    async def _stop(self, attached: _Attached, provider: Provider) -> None:
        former = attached.tasks[provider]
        former.cancel()
        await asyncio.gather(former, return_exceptions=True)

    def _begin(
        self,
        attached: _Attached,
        provider: Provider,
        *,
        before_sign_in: str | None,
        anew: bool,
    ) -> None:
        follower = Follower(
            attached.sandbox,
            provider,
            vault=self._vault,
            runtime=self._runtime,
            world=self,
            before_sign_in=before_sign_in,
            anew=anew,
        )
        attached.followers[provider] = follower
        name = f"login {provider} {attached.sandbox.id}"
        attached.tasks[provider] = asyncio.create_task(follower.run(), name=name)

    async def _running(self, user_id: str, provider: Provider) -> Sandbox:
        check_provider(provider)
        sandbox = await self._sandboxes().of(user_id)
        if sandbox.observed not in {"running", "frozen"}:
            raise NotFound("No sign-in is under way.", hint=_start(provider))
        return await self._sandboxes().ensure(user_id)

    async def _asking(self, asked: Awaitable[_T]) -> _T:
        try:
            return await asked
        except RuntimeRefused as refused:
            if refused.status == 400:
                raise InvalidRequest(refused.message, hint="Begin the sign-in again.") from None
            raise SandboxFailed(
                f"The CLI's sign-in did not begin: {refused.message}",
                hint="The sandbox has to reach the provider's sign-in host; see GET /v1/container.",
            ) from None
        except RuntimeUnreachable:
            raise SandboxFailed(
                "The sandbox does not answer.", hint="Try again; `hutch doctor` looks for causes."
            ) from None


def needs_login(provider: Provider, reason: str) -> NeedsLogin:
    return NeedsLogin(
        f"The login for {provider} does not work any more: {reason} "
        f"Sign in again with `hutch login {provider}`.",
        hint=f"`hutch login {provider}`, or PUT /v1/credentials/{provider} with another one.",
    )


def check_provider(provider: Provider) -> None:
    """Raises ``InvalidRequest``."""
    if provider not in LOGIN_FILES:
        raise InvalidRequest(
            f"There is no sign-in for {provider}.",
            hint=f"PUT /v1/credentials/{provider} with an API key.",
        )


def _start(provider: Provider) -> str:
    return f"POST /v1/credentials/{provider}/login begins one."
