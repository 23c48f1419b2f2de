"""The boundary between Hutch and whatever runs its sandboxes.

A backend knows containers, not users: it makes what a ``SandboxSpec`` says, and reports what *is*.
Deciding what should be is the orchestrator's. Every method is idempotent where that has a meaning
(destroying what is gone succeeds), safe to cancel, and raises ``hutch.errors.BackendError`` when
the engine fails. One contract suite, ``tests/contract/test_backend.py``, runs on each.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias

Isolation: TypeAlias = Literal["gvisor", "runc", "none"]
BackendState: TypeAlias = Literal["created", "running", "frozen", "exited"]
EventKind: TypeAlias = Literal["started", "exited", "oom", "frozen", "unfrozen", "destroyed"]

RUNTIME_PORT: Final = 3000

LABEL_INSTANCE: Final = "hutch.instance"
LABEL_SANDBOX: Final = "hutch.sandbox"
LABEL_INCARNATION: Final = "hutch.incarnation"
# How the ids of sandboxes begin whose walls are being tried: no row knows them.
WALL_SANDBOX: Final = "wall_"
LABEL_IMAGE: Final = "hutch.image"  # on every image that holds a runtime; see hutch.images


@dataclass(frozen=True, slots=True)
class Resources:
    """What one sandbox may use. The defaults are the seed's: 0.5 CPU that bursts to 1, 512 MB
    that bursts to 1 GB, 100 MB of disk.
    """

    cpu_share: float = 0.5  # CPUs, guaranteed under contention
    cpu_ceiling: float = 1.0  # CPUs, never more
    memory_soft_mb: int = 512
    memory_hard_mb: int = 1024
    # Past its pids limit gVisor kills the whole sandbox, so agents are capped lower from inside.
    pids: int = 1024
    agent_pids: int = 256
    workspace_mb: int = 60  # with home_mb, the 100 MB that hibernation will have to carry
    home_mb: int = 40
    tmp_mb: int = 64


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """A sandbox to create. ``env`` is the runtime's environment and holds no secret."""

    instance: str
    sandbox_id: str
    incarnation: str
    image: str
    env: Mapping[str, str]
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True, slots=True)
class Observed:
    """One sandbox as the engine sees it now."""

    handle: str  # the engine's own id; opaque
    sandbox_id: str
    incarnation: str
    state: BackendState
    # Where the runtime answers and where its traffic comes from; None unless running or frozen.
    address: str | None
    port: int
    isolation: Isolation
    exit_code: int | None = None
    oom_killed: bool = False


@dataclass(frozen=True, slots=True)
class Stats:
    cpu_seconds: float  # used since the start
    memory_bytes: int  # resident, page cache that can be dropped not counted
    memory_limit_bytes: int
    pids: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    isolation: Isolation
    freeze: bool
    # True: each sandbox has a source address of its own, and the gateway may go by that alone.
    own_address: bool
    # "" or a warning for the operator, with the exact remedy.
    warning: str = ""
    # What the engine says of itself and its kernel, as far as walls are made of it; opaque.
    engine: str = ""
    # The same about the firewall between sandboxes and the host, as ``prepare`` left it.
    firewall_warning: str = ""


@dataclass(frozen=True, slots=True)
class FirewallLook:
    restored: bool  # something of it was gone, and is back
    # "" or what a sandbox can do as long as it is not there, with the exact remedy.
    warning: str = ""


@dataclass(frozen=True, slots=True)
class BackendEvent:
    """Something happened to a sandbox of ours; a hint to look, never the truth itself."""

    sandbox_id: str
    incarnation: str
    kind: EventKind


@dataclass(frozen=True, slots=True)
class Image:
    """An image as the engine has it. A name may stand for another one at any time; an id never."""

    id: str
    names: tuple[str, ...]
    labels: Mapping[str, str]
    made_at: float  # Unix seconds

    @property
    def holds_runtime(self) -> bool:
        return self.labels.get(LABEL_IMAGE) == "1"


class Backend(Protocol):
    async def prepare(self) -> str:
        """Make what all sandboxes share (the network). Returns the literal address at which a
        sandbox reaches the host, where the gateway has to listen. Idempotent.
        """
        ...

    async def capabilities(self) -> Capabilities: ...

    async def keep_firewall(self) -> FirewallLook:
        """See that what ``prepare`` put between the sandboxes and the host is there, whole, and
        open for each sandbox; put back what is not. What cannot be put back is a warning.
        """
        ...

    async def create(self, spec: SandboxSpec) -> Observed:
        """Make a sandbox, not yet started. A second call with the same incarnation returns the
        first one's result. Raises ``ImageMissing``, ``BackendError``.
        """
        ...

    async def start(self, handle: str) -> Observed:
        """Start it; on return it has an address, though its runtime may not answer yet."""
        ...

    async def stop(self, handle: str, *, grace_s: float = 5) -> None:
        """SIGTERM, then SIGKILL after ``grace_s`` seconds."""
        ...

    async def freeze(self, handle: str) -> None: ...

    async def unfreeze(self, handle: str) -> None: ...

    async def reclaim(self, handle: str) -> int:
        """Push the memory of a frozen sandbox out to swap, where the host can. Returns bytes."""
        ...

    async def destroy(self, handle: str) -> None:
        """Kill and remove, with whatever it left behind; succeeds when it is gone already."""
        ...

    async def list(self) -> list[Observed]:
        """Every sandbox of this instance, in any state, found by label."""
        ...

    async def inspect(self, handle: str) -> Observed | None: ...

    async def processes(self) -> set[str]:
        """Handles that have processes on this machine, whether a sandbox of that handle is there or
        not; those of other installations too. Empty where nothing can be left behind.
        """
        ...

    async def stats(self, handle: str) -> Stats: ...

    async def execute(
        self, handle: str, argv: Sequence[str], *, within_s: float, output_max: int
    ) -> bytes:
        """Run a program in a running sandbox as the user that it began as, its input empty; on
        return it has ended, or closed its output. What it printed on its standard output, at most
        ``output_max`` bytes; past ``within_s`` seconds what it had printed by then.
        """
        ...

    async def image(self, name: str) -> Image | None:
        """What the name, or the id, stands for now."""
        ...

    async def images(self) -> Sequence[Image]:
        """Every image on this machine that holds a runtime, also those of other installations."""
        ...

    async def remove_image(self, image: Image) -> bool:
        """False if something on this machine still uses it, whoever's that is."""
        ...

    def watch(self) -> AsyncIterator[BackendEvent]:
        """Events from now on, until cancelled; ends when the engine's connection breaks."""
        ...

    async def cleanup(self) -> None:
        """Destroy every sandbox of this instance and what ``prepare`` made."""
        ...

    async def close(self) -> None:
        """Let go of connections; sandboxes live on."""
        ...
