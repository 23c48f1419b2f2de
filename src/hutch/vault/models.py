from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from hutch.secrets import Secret
from hutch_runtime.protocol import Provider

Kind: TypeAlias = Literal["api_key"]


@dataclass(frozen=True, slots=True)
class CredentialInfo:
    """What may be shown of a credential: enough to tell two apart, nothing that opens anything."""

    provider: Provider
    kind: Kind
    last_four: str
    fingerprint: str  # first 16 hex digits of the SHA-256
    created_at: float


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential in the clear, on its way from the vault to the gateway's memory."""

    provider: Provider
    kind: Kind
    secret: Secret

    def header(self) -> tuple[str, Secret]:
        """The header that the provider expects it in."""
        match self.provider:
            case "claude":
                return "x-api-key", self.secret
            case "codex":
                return "authorization", Secret(f"Bearer {self.secret.reveal()}")
            case "gemini":
                return "x-goog-api-key", self.secret
