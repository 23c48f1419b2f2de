"""A backend in memory, for tests of what stands above it. Deterministic; no runtime answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from hutch.backends.base import (
    LABEL_IMAGE,
    RUNTIME_PORT,
    BackendEvent,
    Capabilities,
    EventKind,
    FirewallLook,
    Image,
    Observed,
    SandboxSpec,
    Stats,
)
from hutch.backends.event_feed import EventFeed
from hutch.errors import BackendError

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Made:
    spec: SandboxSpec
    observed: Observed


class FakeBackend:
    """Handles are ``fake-1``, ``fake-2``, …; sandboxes get 10.0.0.2, 10.0.0.3, … when started."""

    def __init__(self, instance: str = "fake0000") -> None:
        self._instance = instance
        self._made: dict[str, _Made] = {}
        self._handles = 0
        self._addresses = 1
        self._feed = EventFeed()
        self._images: dict[str, Image] = {}  # by name
        self.add_image("hutch-sandbox:latest", "sha256:1")
        self.left_behind: set[str] = set()  # handles whose processes outlive their sandboxes

    async def prepare(self) -> str:
        return "10.0.0.1"

    async def capabilities(self) -> Capabilities:
        return Capabilities(isolation="none", freeze=True, own_address=True)

    async def keep_firewall(self) -> FirewallLook:
        return FirewallLook(restored=False)

    async def create(self, spec: SandboxSpec) -> Observed:
        for made in self._made.values():
            if made.spec.incarnation == spec.incarnation:
                return made.observed
        self._handles += 1
        observed = Observed(
            handle=f"fake-{self._handles}",
            sandbox_id=spec.sandbox_id,
            incarnation=spec.incarnation,
            state="created",
            address=None,
            port=RUNTIME_PORT,
            isolation="none",
        )
        self._made[observed.handle] = _Made(spec, observed)
        return observed

    async def start(self, handle: str) -> Observed:
        if self._get(handle).state == "created":
            self._addresses += 1
            address = f"10.0.{self._addresses // 256}.{self._addresses % 256}"
            self._set(handle, "started", state="running", address=address)
        return self._get(handle)

    async def stop(self, handle: str, *, grace_s: float = 5) -> None:  # noqa: ARG002  (ends at once)
        if handle in self._made and self._get(handle).state in {"running", "frozen"}:
            self.end(handle, exit_code=143)

    async def freeze(self, handle: str) -> None:
        self._change(handle, "running", "frozen", "frozen")

    async def unfreeze(self, handle: str) -> None:
        self._change(handle, "frozen", "running", "unfrozen")

    async def reclaim(self, handle: str) -> int:
        self._get(handle)
        return 0

    async def destroy(self, handle: str) -> None:
        self.left_behind.discard(handle)
        made = self._made.pop(handle, None)
        if made is not None:
            self._tell(made.observed, "destroyed")

    async def list(self) -> list[Observed]:
        return [m.observed for m in self._made.values() if m.spec.instance == self._instance]

    async def inspect(self, handle: str) -> Observed | None:
        made = self._made.get(handle)
        return made.observed if made else None

    async def processes(self) -> set[str]:
        running = {m.observed.handle for m in self._made.values() if m.observed.state == "running"}
        return running | self.left_behind

    async def stats(self, handle: str) -> Stats:
        self._get(handle)
        limit = self._made[handle].spec.resources.memory_hard_mb * _MIB
        return Stats(cpu_seconds=0.5, memory_bytes=64 * _MIB, memory_limit_bytes=limit, pids=8)

    async def execute(
        self,
        handle: str,
        argv: Sequence[str],
        *,
        within_s: float,  # noqa: ARG002  (ends at once)
        output_max: int,
    ) -> bytes:
        """Prints what it was asked to run."""
        if self._get(handle).state != "running":
            raise BackendError("Nothing can be run in a sandbox that does not run.")
        return " ".join(argv).encode()[:output_max]

    async def image(self, name: str) -> Image | None:
        return self._images.get(name) or next(
            (image for image in self._images.values() if image.id == name), None
        )

    async def images(self) -> Sequence[Image]:
        by_id = {image.id: image for image in self._images.values() if image.holds_runtime}
        return list(by_id.values())

    async def remove_image(self, image: Image) -> bool:
        if any(made.spec.image in {image.id, *image.names} for made in self._made.values()):
            return False
        self._images = {n: held for n, held in self._images.items() if held.id != image.id}
        return True

    def watch(self) -> AsyncIterator[BackendEvent]:
        return self._feed.watch()

    async def cleanup(self) -> None:
        for observed in await self.list():
            await self.destroy(observed.handle)

    async def close(self) -> None:
        self._feed.end()

    def end(self, handle: str, *, exit_code: int, oom_killed: bool = False) -> None:
        """As if the sandbox's main process ended by itself."""
        self._set(
            handle,
            "exited",
            state="exited",
            address=None,
            exit_code=exit_code,
            oom_killed=oom_killed,
        )

    def add_image(
        self, name: str, image_id: str, *, made_at: float = 0.0, ours: bool = True
    ) -> None:
        """Give the name to an image, as a build or ``docker tag`` does."""
        labels = {LABEL_IMAGE: "1"} if ours else {}
        self._images[name] = Image(image_id, (name,), labels, made_at)

    def _get(self, handle: str) -> Observed:
        if handle not in self._made:
            raise BackendError("The container is gone; somebody removed it.")
        return self._made[handle].observed

    def _change(self, handle: str, before: str, after: str, kind: EventKind) -> None:
        if self._get(handle).state == before:
            self._set(handle, kind, state=after)
        elif self._get(handle).state != after:
            raise BackendError(f"The container is not {before}.")

    def _set(self, handle: str, kind: EventKind, **values: object) -> None:
        made = self._made[handle]
        observed = replace(made.observed, **values)  # type: ignore[arg-type]  # fields by name
        self._made[handle] = replace(made, observed=observed)
        self._tell(observed, kind)

    def _tell(self, observed: Observed, kind: EventKind) -> None:
        self._feed.publish(BackendEvent(observed.sandbox_id, observed.incarnation, kind))
