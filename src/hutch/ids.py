"""Identifiers: a word, an underscore, and 100 random bits (so that guessing one is hopeless)."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final, Literal

Kind = Literal[
    "user", "key", "sbx", "inc", "ses", "run", "req", "exit", "snap", "hook", "msg", "term"
]

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case
_LENGTH: Final = 20  # characters of 5 bits
_PATTERN: Final = re.compile(rf"[a-z]{{3,4}}_[{_ALPHABET}]{{{_LENGTH}}}")


def new_id(kind: Kind) -> str:
    return _written(kind, secrets.randbits(_LENGTH * 5))


def derived_id(kind: Kind, text: str) -> str:
    """The same for the same text, and as hard to meet by chance as any other."""
    return _written(kind, int.from_bytes(hashlib.sha256(text.encode()).digest()))


def _written(kind: Kind, bits: int) -> str:
    return f"{kind}_" + "".join(_ALPHABET[(bits >> (5 * i)) & 31] for i in range(_LENGTH))


def is_id(text: str, kind: Kind) -> bool:
    return text.startswith(f"{kind}_") and _PATTERN.fullmatch(text) is not None
