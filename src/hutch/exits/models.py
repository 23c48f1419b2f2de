from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from hutch.gateway.table import ExitProxy
from hutch.secrets import Secret

# static: one address for as long as it is paid for. sticky: a residential session, whose address
# holds for its duration at most and may change earlier.
Kind: TypeAlias = Literal["static", "sticky"]
State: TypeAlias = Literal["active", "draining"]
# drifted: it works, but is not seen from the address that it should have.
Health: TypeAlias = Literal["unknown", "up", "down", "drifted"]
Role: TypeAlias = Literal["home", "spare"]

# The longest that Decodo keeps a residential session, in minutes.
SESSION_MINUTES: Final = 1440


@dataclass(frozen=True, slots=True)
class NewExit:
    """One line of an inventory, checked."""

    kind: Kind
    host: str
    port: int
    username: str
    password: Secret
    label: str = ""
    expected_ip: str | None = None
    expires_at: float | None = None

    @property
    def key(self) -> tuple[str, int, str]:
        """What makes two lines the same exit; its password may change."""
        return self.host, self.port, self.username


@dataclass(frozen=True, slots=True)
class Exit:
    id: str
    kind: Kind
    host: str
    port: int
    username: str
    sealed: bytes = field(repr=False)
    label: str
    expected_ip: str | None
    expires_at: float | None
    state: State
    health: Health
    reason: str
    failures: int  # probes in a row
    seen_ip: str | None
    probed_at: float | None
    last_user_id: str | None
    created_at: float
    # Its lease, if it has one.
    user_id: str | None = None
    role: Role | None = None
    since: float | None = None

    @property
    def key(self) -> tuple[str, int, str]:
        return self.host, self.port, self.username

    @property
    def works(self) -> bool:
        """As far as is known; a drifted one would show a user's traffic from a foreign address."""
        return self.health in {"unknown", "up"}

    def free(self, now: float) -> bool:
        """Whether somebody may have it."""
        expired = self.expires_at is not None and self.expires_at <= now
        return self.user_id is None and self.state == "active" and self.works and not expired

    def proxy(self, password: Secret) -> ExitProxy:
        username = self.username
        if self.kind == "sticky" and "-session-" not in username:
            session = self.id.partition("_")[2]
            username = f"{username}-session-{session}-sessionduration-{SESSION_MINUTES}"
        return ExitProxy(self.id, self.host, self.port, username, password)


@dataclass(frozen=True, slots=True)
class Lease:
    """The exit that a user's traffic takes now, and whose place it takes if it is a spare."""

    exit: Exit
    home: Exit

    @property
    def spare(self) -> bool:
        return self.exit.id != self.home.id


@dataclass(frozen=True, slots=True)
class Imported:
    added: int
    updated: int
    unchanged: int


@dataclass(frozen=True, slots=True)
class Leaving:
    """How a user's sandbox may leave, for the gateway's table. ``exit`` is None exactly when
    ``egress`` is not ``exit``.
    """

    egress: Literal["direct", "exit", "closed"]
    exit: ExitProxy | None = None
    closed_because: str = ""


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of an exit's history."""

    exit_id: str
    user_id: str | None
    what: str
    detail: str
    at: float
