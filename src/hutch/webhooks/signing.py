"""Signatures by the Standard Webhooks specification (symmetric, ``v1``), for which receivers have
libraries: HMAC-SHA256 over id, time and body, so that none of them can be changed or sent again
much later.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Iterable, Mapping
from typing import Final

from hutch.secrets import Secret

_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 32


def new_secret() -> Secret:
    return Secret(_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode())


def headers(keys: Iterable[Secret], message_id: str, at: int, body: bytes) -> Mapping[str, str]:
    """``keys``: each signs, the newest first. ``at``: Unix seconds, of this attempt."""
    signed = b".".join((message_id.encode(), str(at).encode(), body))
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{_signature(key, signed)}" for key in keys),
    }


def _signature(key: Secret, signed: bytes) -> str:
    raw = base64.b64decode(key.reveal().removeprefix(_PREFIX))
    return base64.b64encode(hmac.digest(raw, signed, "sha256")).decode()
