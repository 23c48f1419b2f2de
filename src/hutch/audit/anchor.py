"""Where the log ends, kept outside of the database, in a file that only the key's holder writes."""

from __future__ import annotations

import hmac
import json
import os
from pathlib import Path

from hutch.audit.chain import Head


class Anchor:
    def __init__(self, path: Path, secret: bytes) -> None:
        self._path = path
        self._key = hmac.digest(secret, b"hutch audit anchor v1", "sha256")

    def read(self) -> Head | None:
        """None: there is none, or not one of ours. Blocking."""
        try:
            told = json.loads(self._path.read_text())
            head = Head(int(told["count"]), bytes.fromhex(told["seal"]))
            signed = bytes.fromhex(told["signature"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return head if hmac.compare_digest(self._sign(head), signed) else None

    def write(self, head: Head) -> None:
        """In one step. Blocking."""
        told = {
            "count": head.count,
            "seal": head.seal.hex(),
            "signature": self._sign(head).hex(),
        }
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps(told) + "\n")
        draft.replace(self._path)

    def _sign(self, head: Head) -> bytes:
        return hmac.digest(self._key, head.count.to_bytes(8, "big") + head.seal, "sha256")
