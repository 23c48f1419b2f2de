"""Clone into a user's workspace, and keep their tokens for git hosts, which stay outside of it.

A token is put in by the gateway, on the path that it has for each git host. One that was given with
a clone alone is in the gateway for as long as that takes, and stored nowhere.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
from sqlalchemy import Row, delete, insert, select

from hutch.clock import Clock
from hutch.errors import (
    Conflict,
    DirectoryExists,
    DoesNotOpen,
    GitAuthFailed,
    GitFailed,
    GitTimeout,
    HostNotAllowed,
    HutchError,
    NotFound,
    NotSupported,
    RepositoryNotFound,
    RepositoryTooLarge,
    SandboxFailed,
)
from hutch.gateway.table import Remote
from hutch.git.models import TOKENS_MAX, Cloned, CloneWanted, GitToken, remote
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.runtime_client import RuntimeClient, RuntimeRefused, RuntimeUnreachable
from hutch.sandboxes.uses import Uses
from hutch.secrets import Secret
from hutch.store.database import Database
from hutch.store.tables import git_tokens as table
from hutch.vault.data_keys import DataKeys

_log = structlog.get_logger()

_CLONES_MAX: Final = 1  # of a user at once: the workspace is small, and the token is one for a host
_PATIENCE_S: Final = 90.0  # beyond the clone's own time: to look at it, and to remove what is left
_WORDS_MAX: Final = 500


class Git:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        data_keys: DataKeys,
        runtime: RuntimeClient,
        *,
        uses: Callable[[], Uses],
        changed: Callable[[str], Awaitable[None]],
    ) -> None:
        """``changed`` is told of users whose tokens are others now."""
        self._database = database
        self._clock = clock
        self._data_keys = data_keys
        self._runtime = runtime
        self._uses = uses
        self._changed = changed
        self._users: set[str] = set()  # who may have a token
        self._lent: dict[str, tuple[str, Secret]] = {}  # by user: host, and its token for a clone

    async def load(self) -> None:
        rows = await self._database.all(select(table.c.user_id).distinct())
        self._users = {row.user_id for row in rows}

    async def tokens(self, user_id: str) -> list[GitToken]:
        return [GitToken(r.host, r.username, r.created_at) for r in await self._rows(user_id)]

    async def put_token(self, user_id: str, host: str, username: str, kept: Secret) -> GitToken:
        """Store or replace it. Raises ``Conflict``, ``KeyUnavailable``."""
        hosts = {row.host for row in await self._rows(user_id)}
        if host not in hosts and len(hosts) >= TOKENS_MAX:
            raise Conflict(f"There are tokens for {TOKENS_MAX} hosts already.")
        version = secrets.randbelow(1 << 31)
        sealed = await self._data_keys.seal(
            user_id, _context(host, version), kept.reveal().encode()
        )
        stored = GitToken(host, username, self._clock.now())
        await self._database.write(
            delete(table).where(table.c.user_id == user_id, table.c.host == host),
            insert(table).values(
                user_id=user_id,
                host=host,
                username=username,
                version=version,
                sealed=sealed,
                created_at=stored.created_at,
            ),
        )
        self._users.add(user_id)
        await self._changed(user_id)
        return stored

    async def delete_token(self, user_id: str, host: str) -> None:
        """Raises ``NotFound``."""
        gone = await self._database.write(
            delete(table).where(table.c.user_id == user_id, table.c.host == host)
        )
        if not gone:
            raise NotFound(
                f"No token for {host} is stored.", hint="GET /v1/git/credentials lists yours."
            )
        await self._changed(user_id)

    async def remotes(self, user_id: str) -> Mapping[str, Remote]:
        """What the gateway puts in for the user, by its path there."""
        found = {}
        for row in await self._rows(user_id) if user_id in self._users else ():
            try:
                opened = await self._data_keys.open(
                    user_id, _context(row.host, row.version), row.sealed
                )
            except DoesNotOpen:  # it must not keep the rest from working
                _log.error("git.token_does_not_open", user=user_id, host=row.host)
                continue
            found[f"git/{row.host}"] = remote(row.host, Secret(opened.decode()))
        if lent := self._lent.get(user_id):
            found[f"git/{lent[0]}"] = remote(*lent)
        return found

    async def clone(self, user_id: str, wanted: CloneWanted) -> Cloned:
        """Raises what is in ``hutch.errors`` of git; ``TooManyUses``, ``SandboxFailed``."""
        host = wanted.repository.host
        async with self._uses().of(user_id, "clones", most=_CLONES_MAX) as use:
            stored = any(row.host == host for row in await self._rows(user_id))
            if wanted.token is not None:
                self._lent[user_id] = host, wanted.token
                await self._changed(user_id)
            try:
                said = await use.unless_over(
                    self._ask(use.sandbox, wanted, token=stored or wanted.token is not None,
                              keep=stored)
                )  # fmt: skip
            finally:
                if self._lent.pop(user_id, None) is not None:
                    await self._changed(user_id)
        return _cloned(wanted, said)

    async def _ask(
        self, sandbox: Sandbox, wanted: CloneWanted, *, token: bool, keep: bool
    ) -> dict[str, Any]:
        body = {
            "url": wanted.repository.url,
            "host": wanted.repository.host,
            "directory": wanted.directory,
            "branch": wanted.branch,
            "depth": wanted.depth,
            "submodules": wanted.submodules,
            "timeout_s": wanted.timeout_s,
            "token": token,
            "keep": keep,
        }
        within_s = wanted.timeout_s + _PATIENCE_S
        try:
            return await self._runtime.call(
                sandbox, "POST", "/git/clone", body=body, within_s=within_s
            )
        except RuntimeRefused as refused:
            if refused.status == 404:
                raise NotSupported(
                    "This container's image is from before repositories could be cloned.",
                    hint="`hutch container destroy` makes way for one of a newer image.",
                ) from None
            raise GitFailed(refused.message) from None
        except RuntimeUnreachable:
            raise SandboxFailed(
                "The container does not answer.", hint="Try again; `hutch doctor` looks for causes."
            ) from None

    async def _rows(self, user_id: str) -> list[Row[Any]]:
        query = select(table).where(table.c.user_id == user_id).order_by(table.c.host)
        return list(await self._database.all(query))


def _cloned(wanted: CloneWanted, said: Mapping[str, Any]) -> Cloned:
    """What the container says, checked. Raises ``HutchError``."""
    outcome = said.get("outcome")
    if outcome != "ok":
        raise _failure(wanted, str(outcome), _printable(said.get("message")))
    commit, branch, size = said.get("commit"), said.get("branch"), said.get("bytes")
    whole = isinstance(commit, str) and len(commit) in {40, 64} and commit.isalnum()
    return Cloned(
        commit if whole and isinstance(commit, str) else None,
        _printable(branch) if isinstance(branch, str) else None,
        wanted.directory,
        size if isinstance(size, int) and 0 <= size < 1 << 40 else 0,
    )


def _failure(wanted: CloneWanted, outcome: str, words: str) -> HutchError:
    host = wanted.repository.host
    match outcome:
        case "exists":
            return DirectoryExists(
                f"/workspace/{wanted.directory} is there already.", hint="Name another directory."
            )
        case "not_found" | "branch_not_found":
            return RepositoryNotFound(
                f"Not found: {words}", hint="Is it private? Then it takes a token that may see it."
            )
        case "auth_failed":
            return GitAuthFailed(
                f"{host} did not let it in: {words}",
                hint=f"PUT /v1/git/credentials/{host} with a token, or give one with the clone.",
            )
        case "not_allowed":
            return HostNotAllowed(
                f"The container may not reach {host}.", hint=f"`hutch network allow {host}`."
            )
        case "too_large":
            return RepositoryTooLarge(
                "It does not fit into the workspace. Nothing of it was kept.",
                hint='"depth": 1 leaves its history out.',
            )
        case "timeout":
            return GitTimeout(f"{words} Nothing of it was kept.", hint="Give it more timeout_s.")
        case _:
            return GitFailed(words or "git failed.", hint="Does the address lead to a repository?")


def _printable(text: object) -> str:
    return "".join(c for c in str(text or "") if c.isprintable())[:_WORDS_MAX]


def _context(host: str, version: int) -> str:
    return f"git token {host} {version}"
