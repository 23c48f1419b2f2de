"""Store credentials encrypted; give them in the clear to the gateway's table alone.

Each user's key is derived from the installation's secret (HKDF-SHA-256, the user id as info), and
the associated data binds a ciphertext to its user, provider and kind: one row copied over another
does not open.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Row, delete, insert, select

from hutch.clock import Clock
from hutch.errors import NotFound
from hutch.secrets import Secret
from hutch.store.database import Database
from hutch.store.tables import credentials
from hutch.vault.models import Credential, CredentialInfo, Kind
from hutch.vault.shapes import check_api_key
from hutch_runtime.protocol import PROVIDERS, Provider

_NONCE_BYTES: Final = 12


class Vault:
    def __init__(self, database: Database, clock: Clock, secret: bytes) -> None:
        self._database = database
        self._clock = clock
        self._secret = secret

    async def put_api_key(self, user_id: str, provider: Provider, text: str) -> CredentialInfo:
        """Store or replace it. Raises ``CredentialMalformed``."""
        key = check_api_key(provider, text)
        kind: Kind = "api_key"
        info = CredentialInfo(
            provider=provider,
            kind=kind,
            last_four=key[-4:] if len(key) >= 16 else "",
            fingerprint=hashlib.sha256(key.encode()).hexdigest()[:16],
            created_at=self._clock.now(),
        )
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher(user_id).encrypt(
            nonce, key.encode(), _binding(user_id, provider, kind)
        )
        await self._database.write(
            _one(delete(credentials), user_id, provider),
            insert(credentials).values(
                user_id=user_id,
                provider=provider,
                kind=kind,
                sealed=sealed,
                last_four=info.last_four,
                fingerprint=info.fingerprint,
                version=1,
                state="ok",
                reason="",
                created_at=info.created_at,
            ),
        )
        return info

    async def all(self, user_id: str) -> list[CredentialInfo]:
        rows = await self._database.all(select(credentials).where(credentials.c.user_id == user_id))
        return sorted((_info(row) for row in rows), key=lambda i: PROVIDERS.index(i.provider))

    async def info(self, user_id: str, provider: Provider) -> CredentialInfo:
        """Raises ``NotFound``."""
        for info in await self.all(user_id):
            if info.provider == provider:
                return info
        raise NotFound(
            f"No credential for {provider} is stored.",
            hint=f"PUT /v1/credentials/{provider} stores one.",
        )

    async def delete(self, user_id: str, provider: Provider) -> None:
        """Raises ``NotFound``."""
        await self.info(user_id, provider)
        await self._database.write(_one(delete(credentials), user_id, provider))

    async def has(self, user_id: str, provider: Provider) -> bool:
        query = _one(select(credentials.c.kind), user_id, provider)
        return await self._database.first(query) is not None

    async def reveal(self, user_id: str) -> list[Credential]:
        """Every credential of the user in the clear, for the gateway."""
        cipher = self._cipher(user_id)
        rows = await self._database.all(select(credentials).where(credentials.c.user_id == user_id))
        return [
            Credential(
                row.provider,
                row.kind,
                Secret(
                    cipher.decrypt(
                        row.sealed[:_NONCE_BYTES],
                        row.sealed[_NONCE_BYTES:],
                        _binding(user_id, row.provider, row.kind),
                    ).decode()
                ),
            )
            for row in rows
        ]

    def _cipher(self, user_id: str) -> AESGCM:
        derive = HKDF(hashes.SHA256(), 32, salt=None, info=b"hutch vault v1 " + user_id.encode())
        return AESGCM(derive.derive(self._secret))


def _binding(user_id: str, provider: str, kind: str) -> bytes:
    return f"hutch credential v1\0{user_id}\0{provider}\0{kind}".encode()


def _one(statement: Any, user_id: str, provider: str) -> Any:
    return statement.where(credentials.c.user_id == user_id, credentials.c.provider == provider)


def _info(row: Row[Any]) -> CredentialInfo:
    return CredentialInfo(row.provider, row.kind, row.last_four, row.fingerprint, row.created_at)
