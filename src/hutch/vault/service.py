"""Store credentials encrypted; give them in the clear to the gateway's table alone.

What is sealed is bound to its user, provider, kind and version: one row copied over another, or
over a later one of the same user, does not open.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
from sqlalchemy import Row, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from hutch.clock import Clock
from hutch.errors import (
    Conflict,
    CredentialMissing,
    CredentialNotAllowed,
    DoesNotOpen,
    KeyUnavailable,
    NeedsLogin,
    NotFound,
)
from hutch.secrets import Secret
from hutch.store.database import Database
from hutch.store.tables import credentials
from hutch.vault.data_keys import DataKeys
from hutch.vault.logins import CODEX_AUTH, pack, unpack
from hutch.vault.models import Credential, CredentialInfo, Kind, PutKind, Result, Shredded, State
from hutch.vault.shapes import check_api_key, check_auth_json, check_session_token
from hutch.vault.uses import Uses
from hutch_runtime.protocol import PROVIDERS, Provider

_log = structlog.get_logger()

_TRIES: Final = 5  # of a store that others keep getting ahead of
# A first version is random, so that one stored after a deletion is never mistaken for the one
# before it; far enough from the end of 32 bits to count up for ever.
_FIRST_VERSIONS: Final = 1 << 30
_SHOW_FROM: Final = 16  # characters: of a shorter key four would be too much

_ALL_OF: Final = select(credentials).where(credentials.c.user_id == bindparam("owner"))
_ONE: Final = _ALL_OF.where(credentials.c.provider == bindparam("named"))


class Vault:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        data_keys: DataKeys,
        *,
        permit_session_token: Callable[[str], Awaitable[None]],
    ) -> None:
        """``permit_session_token`` raises ``CredentialNotAllowed`` for a user who may not."""
        self._database = database
        self._clock = clock
        self._data_keys = data_keys
        self._permit_session_token = permit_session_token
        self._uses = Uses(database, clock)

    async def close(self) -> None:
        await self._uses.close()

    async def check(self, user_id: str, provider: Provider, kind: PutKind, text: str) -> Credential:
        """What ``put`` would store, not stored. Raises ``CredentialMalformed``,
        ``CredentialNotAllowed``.
        """
        match kind:
            case "api_key":
                return Credential(provider, kind, Secret(check_api_key(provider, text)))
            case "session_token":
                token = check_session_token(provider, text)
                await self._permit_session_token(user_id)
                return Credential(provider, kind, Secret(token))
            case "chatgpt":
                check_auth_json(provider, text)
                return Credential(provider, "login", None)

    async def put(
        self, user_id: str, provider: Provider, kind: PutKind, text: str
    ) -> CredentialInfo:
        """Store or replace it. Raises ``CredentialMalformed``, ``CredentialNotAllowed``,
        ``KeyUnavailable``.
        """
        checked = await self.check(user_id, provider, kind, text)
        if checked.secret is None:
            return await self.put_login(
                user_id, provider, {CODEX_AUTH: text.encode()}, expected_version=None
            )
        key = checked.secret.reveal()
        return await self._store(
            user_id,
            provider,
            checked.kind,
            key.encode(),
            last_four=key[-4:] if len(key) >= _SHOW_FROM else "",
        )

    async def put_login(
        self,
        user_id: str,
        provider: Provider,
        files: Mapping[str, bytes],
        *,
        expected_version: int | None,
    ) -> CredentialInfo:
        """Store the files of a login, by path below the home directory.

        With ``expected_version`` only over that very version: what the CLI wrote goes over what
        it was given, never over what the user has stored meanwhile. None is a new sign-in, which
        replaces whatever is there. Raises ``Conflict``, ``CredentialMalformed``.
        """
        return await self._store(
            user_id, provider, "login", pack(files), expected_version=expected_version
        )

    async def login_files(self, user_id: str, provider: Provider) -> tuple[dict[str, bytes], int]:
        """The files and their version. Raises ``NotFound`` if no login is stored,
        ``DoesNotOpen``.
        """
        row = await self._row(user_id, provider)
        if row is None or row.kind != "login":
            raise NotFound(
                f"No login for {provider} is stored.", hint=f"`hutch login {provider}` makes one."
            )
        return unpack(await self._open(row)), row.version

    async def set_state(
        self,
        user_id: str,
        provider: Provider,
        state: State,
        reason: str = "",
        *,
        expected_version: int | None = None,
    ) -> bool:
        """Whether it was there, and in the version meant if one is."""
        statement = _one(update(credentials), user_id, provider)
        if expected_version is not None:
            statement = statement.where(credentials.c.version == expected_version)
        return bool(await self._database.write(statement.values(state=state, reason=reason)))

    def note_use(
        self, user_id: str, provider: Provider, result: Result, *, began_at: float | None = None
    ) -> None:
        """Costs its caller nothing: it is written in the background, once a minute at most.
        ``began_at``: when the use did; a credential stored later had no part in it.
        """
        self._uses.note(user_id, provider, result, began_at=began_at)

    async def record_check(self, user_id: str, provider: Provider, result: Result) -> None:
        """The outcome of a check that somebody waits for: at once."""
        await self._uses.write(user_id, provider, result)

    async def all(self, user_id: str) -> list[CredentialInfo]:
        rows = await self._database.all(_ALL_OF, owner=user_id)
        return sorted((_info(row) for row in rows), key=lambda i: PROVIDERS.index(i.provider))

    async def states(self) -> list[State]:
        """Of every credential of every user."""
        rows = await self._database.all(select(credentials.c.state))
        return [row.state for row in rows]

    async def info(self, user_id: str, provider: Provider) -> CredentialInfo:
        """Raises ``NotFound``."""
        return _info(await self._existing(user_id, provider))

    async def delete(self, user_id: str, provider: Provider) -> None:
        """Raises ``NotFound``."""
        await self.info(user_id, provider)
        await self._database.write(_one(delete(credentials), user_id, provider))

    async def require(self, user_id: str, provider: Provider) -> None:
        """That a run can be paid for. Raises ``CredentialMissing``, ``NeedsLogin``,
        ``CredentialNotAllowed``.
        """
        row = await self._row(user_id, provider)
        if row is None:
            raise CredentialMissing(
                f"No credential for {provider} is stored.",
                hint=f"PUT /v1/credentials/{provider} with an API key first.",
            )
        if row.state == "needs_login":
            raise NeedsLogin(
                f"The stored credential for {provider} no longer works: {row.reason}",
                hint=f"`hutch login {provider}`, or PUT /v1/credentials/{provider}.",
            )
        if row.kind == "session_token":  # the operator may have switched them off since
            await self._permit_session_token(user_id)

    async def reveal(self, user_id: str) -> list[Credential]:
        """Every credential of the user in the clear, for the gateway. One that may not be used is
        left out. So is one that does not open, and from then on it needs a login: it must not keep
        the others from working.
        """
        revealed = []
        for row in await self._database.all(_ALL_OF, owner=user_id):
            try:
                if row.kind == "session_token":
                    await self._permit_session_token(user_id)
                revealed.append(await self._credential(row))
            except CredentialNotAllowed:
                continue
            except DoesNotOpen as error:
                _log.error("credential.does_not_open", user=user_id, provider=row.provider)
                await self.set_state(
                    user_id,
                    row.provider,
                    "needs_login",
                    error.message,
                    expected_version=row.version,
                )
        return revealed

    async def reveal_one(self, user_id: str, provider: Provider) -> Credential:
        """For a check of it. Raises ``NotFound``, ``DoesNotOpen``."""
        return await self._credential(await self._existing(user_id, provider))

    async def shred(self, user_id: str) -> Shredded:
        """Destroy the user's data key, and try it on a ciphertext kept from before."""
        row = await self._database.first(
            select(credentials).where(credentials.c.user_id == user_id).limit(1)
        )
        sample: tuple[str, bytes] | None = None
        if row is not None:
            sample = _context(row.provider, row.kind, row.version), row.sealed
        elif await self._data_keys.exists(user_id):
            # A key that cannot be had must not keep it from being destroyed.
            with contextlib.suppress(KeyUnavailable):
                sample = "proof", await self._data_keys.seal(user_id, "proof", b"")
        fingerprint = await self._data_keys.destroy(user_id)
        opens = False
        if sample is not None:
            with contextlib.suppress(DoesNotOpen):
                await self._data_keys.open(user_id, *sample)
                opens = True
        return Shredded(fingerprint, opens)

    async def _store(
        self,
        user_id: str,
        provider: Provider,
        kind: Kind,
        plaintext: bytes,
        *,
        last_four: str = "",
        expected_version: int | None = None,
    ) -> CredentialInfo:
        for _ in range(_TRIES):
            row = await self._row(user_id, provider)
            current: int | None = row.version if row is not None else None
            if expected_version is not None and current != expected_version:
                break
            version = current + 1 if current else secrets.randbelow(_FIRST_VERSIONS) + 1
            sealed = await self._data_keys.seal(
                user_id, _context(provider, kind, version), plaintext
            )
            # What the CLI rewrote is the same login still.
            goes_on = row is not None and expected_version is not None
            info = CredentialInfo(
                provider=provider,
                kind=kind,
                version=version,
                last_four=last_four,
                fingerprint=hashlib.sha256(plaintext).hexdigest()[:16],
                state="ok",
                reason="",
                created_at=row.created_at if goes_on and row else self._clock.now(),
                used_at=row.used_at if goes_on and row else None,
                last_result=row.last_result if goes_on and row else None,
            )
            if await self._swap(user_id, info, sealed, current):
                return info
        raise Conflict(
            f"The credential for {provider} was changed by somebody else meanwhile.",
            hint=f"GET /v1/credentials/{provider} shows what is stored now.",
        )

    async def _swap(
        self, user_id: str, info: CredentialInfo, sealed: bytes, current: int | None
    ) -> bool:
        """Store it if the version is still ``current``."""
        values = {name: getattr(info, name) for name in CredentialInfo.__slots__}
        values["sealed"] = sealed
        if current is None:
            try:
                await self._database.write(insert(credentials).values(user_id=user_id, **values))
            except IntegrityError:
                return False
            return True
        swap = _one(update(credentials), user_id, info.provider)
        return bool(
            await self._database.write(
                swap.where(credentials.c.version == current).values(**values)
            )
        )

    async def _row(self, user_id: str, provider: Provider) -> Row[Any] | None:
        return await self._database.first(_ONE, owner=user_id, named=provider)

    async def _existing(self, user_id: str, provider: Provider) -> Row[Any]:
        row = await self._row(user_id, provider)
        if row is None:
            raise NotFound(
                f"No credential for {provider} is stored.",
                hint=f"PUT /v1/credentials/{provider} stores one.",
            )
        return row

    async def _credential(self, row: Row[Any]) -> Credential:
        if row.kind == "login":
            return Credential(row.provider, row.kind, None)
        return Credential(row.provider, row.kind, Secret((await self._open(row)).decode()))

    async def _open(self, row: Row[Any]) -> bytes:
        context = _context(row.provider, row.kind, row.version)
        return await self._data_keys.open(row.user_id, context, row.sealed)


def _context(provider: str, kind: str, version: int) -> str:
    return f"credential {provider} {kind} {version}"


def _one(statement: Any, user_id: str, provider: str) -> Any:
    return statement.where(credentials.c.user_id == user_id, credentials.c.provider == provider)


def _info(row: Row[Any]) -> CredentialInfo:
    return CredentialInfo(**{name: getattr(row, name) for name in CredentialInfo.__slots__})
