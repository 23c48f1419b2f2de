"""What the gateway knows: which address is whose sandbox, and what to put in for them.

Pushed whole or entry by entry by the orchestrator over a Unix socket, kept in memory only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from hutch.secrets import Secret
from hutch_runtime.protocol import Provider

# Sandboxes of the process backend all come from the host's own address; every other address
# belongs to one sandbox at a time.
SHARED_ADDRESS: Final = "127.0.0.1"
_EXIT_MOVED: Final = "the exit was given to somebody else just now; try again."


@dataclass(frozen=True, slots=True)
class Route:
    """Where one provider's requests of one sandbox go, and the headers that pay for them."""

    base_url: str  # http(s)://host[:port][/path], no query
    # Put in place of whatever credential the sandbox sent.
    headers: tuple[tuple[str, Secret], ...]
    # Values added to a header that the sandbox may have sent too: (name, value), as a list.
    added: tuple[tuple[str, str], ...] = ()
    # The start of a path that ``base_url`` replaces: "/v1" where that API has none.
    strip: str = ""
    # A login that lives in the sandbox pays with its own header, which then passes as it is.
    own_credential: bool = False


@dataclass(frozen=True, slots=True)
class Remote:
    """A place on the internet that its user has secrets for: reached by a path of the gateway's,
    with these headers put in place of those that the sandbox sent.
    """

    url: str  # http(s)://host[:port][/path][?query]
    headers: tuple[tuple[str, Secret], ...]


@dataclass(frozen=True, slots=True)
class ExitProxy:
    """An HTTP proxy through which everything of one sandbox leaves, by CONNECT."""

    id: str
    host: str
    port: int
    username: str
    password: Secret


# How something leaves. A value that one must have, never a default.
Way = ExitProxy | Literal["direct"]


@dataclass(frozen=True, slots=True)
class Lane:
    """Those who may use the same connections: of an exit its user alone; all who leave directly."""

    way: Way
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class HostRule:
    """``host`` is a name, ``*.name`` (what is below it), or a literal address; in lower case."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One sandbox. ``user_id`` is None for a warm one that nobody has claimed."""

    sandbox_id: str
    incarnation: str
    address: str
    user_id: str | None
    # The key that the container holds instead of a real one: worth nothing elsewhere.
    placeholder: Secret
    routes: Mapping[Provider, Route] = field(default_factory=dict)
    # direct: from the server's own address. exit: through ``exit``. closed: not at all.
    egress: Literal["direct", "exit", "closed"] = "direct"
    exit: ExitProxy | None = None  # set exactly when ``egress`` is "exit"
    closed_because: str = ""  # told to the user when it is "closed"
    allow: tuple[HostRule, ...] = ()  # for CONNECT and plain HTTP
    remotes: Mapping[str, Remote] = field(default_factory=dict)  # by path, as "mcp/NAME"

    @property
    def lane(self) -> Lane | None:
        """None if nothing of theirs may leave."""
        if self.egress == "direct":
            return Lane("direct")
        return Lane(self.exit, self.user_id) if self.egress == "exit" and self.exit else None


class Table:
    """Entries by address. A change is one step of the event loop: requests see all or nothing."""

    def __init__(self) -> None:
        self._by_sandbox: dict[str, Entry] = {}
        self._by_address: dict[str, Entry] = {}
        self._exit_users: dict[str, str | None] = {}  # by exit: who was last told to have it

    def __len__(self) -> int:
        return len(self._by_sandbox)

    def now(self, sandbox_id: str) -> Entry | None:
        return self._by_sandbox.get(sandbox_id)

    def knows(self, address: str) -> bool:
        """Whether any sandbox has it, or may have it as one of several."""
        if address != SHARED_ADDRESS:
            return address in self._by_address
        return any(entry.address == SHARED_ADDRESS for entry in self._by_sandbox.values())

    def lanes(self) -> frozenset[Lane]:
        """Those that some sandbox has now."""
        return frozenset(e.lane for e in self._by_sandbox.values() if e.lane is not None)

    def replace(self, entries: Iterable[Entry]) -> None:
        """Forget everything and take these; of two with one address the later counts."""
        fresh = Table()
        for entry in entries:
            fresh.put(entry)
        self._by_sandbox, self._by_address = fresh._by_sandbox, fresh._by_address
        self._exit_users = fresh._exit_users

    def put(self, entry: Entry) -> None:
        """Add it in place of the sandbox's former one and of whoever had the address before. If
        its exit was another user's, that one is without until it is told anew.
        """
        if entry.exit is not None:
            if self._exit_users.get(entry.exit.id, entry.user_id) != entry.user_id:
                self._close(entry.exit.id)
            self._exit_users[entry.exit.id] = entry.user_id
        self._add(entry)

    def _add(self, entry: Entry) -> None:
        self._drop(self._by_sandbox.get(entry.sandbox_id))
        if entry.address != SHARED_ADDRESS:
            self._drop(self._by_address.get(entry.address))
            self._by_address[entry.address] = entry
        self._by_sandbox[entry.sandbox_id] = entry

    def remove(self, sandbox_id: str, incarnation: str) -> bool:
        """False if that incarnation is not there: gone already, or its successor is."""
        entry = self._by_sandbox.get(sandbox_id)
        if entry is None or entry.incarnation != incarnation:
            return False
        self._drop(entry)
        return True

    def find(self, address: str, presented: Iterable[str]) -> Entry | None:
        """Who is asking. ``presented`` are the keys in the request: they decide only between the
        sandboxes of ``SHARED_ADDRESS``, elsewhere the address alone does.
        """
        if address != SHARED_ADDRESS:
            return self._by_address.get(address)
        keys = tuple(presented)
        found = None
        for entry in self._by_sandbox.values():
            if entry.address == SHARED_ADDRESS and any(entry.placeholder.matches(k) for k in keys):
                found = entry  # no early end: the time must not tell which
        return found

    def _close(self, exit_id: str) -> None:
        for entry in list(self._by_sandbox.values()):
            if entry.exit is not None and entry.exit.id == exit_id:
                self._add(replace(entry, egress="closed", exit=None, closed_because=_EXIT_MOVED))

    def _drop(self, entry: Entry | None) -> None:
        if entry is None:
            return
        # An entry is in both or in neither (or on the shared address): put() sees to that.
        self._by_sandbox.pop(entry.sandbox_id, None)
        self._by_address.pop(entry.address, None)
