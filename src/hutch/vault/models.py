from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from hutch.secrets import Secret
from hutch_runtime.protocol import Provider

# What a user gives; ``chatgpt`` is the text of an auth.json, and is kept as a login.
PutKind: TypeAlias = Literal["api_key", "session_token", "chatgpt"]
# What is kept. A login is files that the CLI made, and makes anew when it likes.
Kind: TypeAlias = Literal["api_key", "session_token", "login"]
State: TypeAlias = Literal["ok", "needs_login"]
# Of a use or a check. rejected: the provider does not take the credential. error: it failed in
# another way.
Result: TypeAlias = Literal["ok", "rejected", "rate_limited", "unreachable", "error"]

# Without it Anthropic's API refuses a session token; Claude Code sends the same.
_CLAUDE_OAUTH: Final = ("anthropic-beta", "oauth-2025-04-20")


@dataclass(frozen=True, slots=True)
class CredentialInfo:
    """What may be shown of a credential: enough to tell two apart, nothing that opens anything."""

    provider: Provider
    kind: Kind
    version: int  # another one after every change of what is stored
    last_four: str  # "" for a login, and for a key too short to show any of
    fingerprint: str  # first 16 hex digits of the SHA-256
    state: State
    reason: str  # why a login is needed; "" otherwise
    created_at: float
    used_at: float | None  # within a minute
    last_result: Result | None


@dataclass(frozen=True, slots=True)
class Shredded:
    """What became of everything sealed for a user."""

    data_key: str | None  # fingerprint of the destroyed key
    opens: bool  # of a ciphertext kept from before: whether it still opened


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential in the clear, on its way from the vault to the gateway's memory. ``secret`` is
    None for a login: the CLI in the container holds that one itself.
    """

    provider: Provider
    kind: Kind
    secret: Secret | None

    def headers(self) -> tuple[tuple[str, Secret], ...]:
        """The headers that the provider expects it in, in place of any that came."""
        if self.secret is None:
            return ()
        if self.provider == "codex" or self.kind == "session_token":
            return (("authorization", Secret(f"Bearer {self.secret.reveal()}")),)
        return (("x-api-key" if self.provider == "claude" else "x-goog-api-key", self.secret),)

    def added(self) -> tuple[tuple[str, str], ...]:
        """Values that go into a header beside those that came."""
        return (_CLAUDE_OAUTH,) if self.kind == "session_token" else ()
