"""Make one sandbox what its row says it should be.

``step`` holds no state of its own: it reads the row, does the next thing, and may be killed at any
instruction and run again. It does not decide that a sandbox should exist; that is ``service``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import structlog

from hutch.backends.base import Backend, Observed, Resources, SandboxSpec
from hutch.clock import Clock
from hutch.errors import BackendError, HutchError, SandboxFailed
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.rows import SandboxRows
from hutch.sandboxes.runtime_client import RuntimeClient, RuntimeRefused, RuntimeUnreachable
from hutch.sandboxes.states import State
from hutch_runtime.protocol import PROVIDERS

_log = structlog.get_logger()

RUNTIME_ANSWERS_S: Final = 60
_POLL_S: Final = 0.05
_AGENTS_POLL_S: Final = 0.25
_REASON_MAX: Final = 500  # characters


class Egress(Protocol):
    """The gateway, as far as a sandbox's life is concerned."""

    async def admit(self, sandbox: Sandbox) -> None: ...

    async def dismiss(self, sandbox: Sandbox) -> None: ...


class Keeper(Protocol):
    """Keeps what is in a sandbox while it has no container. Each raises ``HutchError``."""

    async def save(self, sandbox: Sandbox) -> None: ...

    async def restore(self, sandbox: Sandbox) -> None:
        """Into the sandbox that starts with it; may be repeated."""
        ...


class Reconciler:
    def __init__(
        self,
        rows: SandboxRows,
        backend: Backend,
        runtime: RuntimeClient,
        egress: Egress,
        clock: Clock,
        *,
        instance: str,
        resources: Resources,
        environment: Callable[[Sandbox], Mapping[str, str]],
        changed: Callable[[Sandbox], None],
        before_rest: Callable[[Sandbox], Awaitable[None]],
        keeper: Keeper,
    ) -> None:
        """``before_rest`` stores what would be lost with, or is out of reach in, a sandbox that
        still answers; it is bounded in time and never raises.
        """
        self._rows = rows
        self._backend = backend
        self._runtime = runtime
        self._egress = egress
        self._clock = clock
        self._instance = instance
        self._resources = resources
        self._environment = environment
        self._changed = changed
        self._before_rest = before_rest
        self._keeper = keeper

    async def step(self, sandbox_id: str) -> None:
        sandbox = await self._rows.get(sandbox_id)
        if sandbox is None or not sandbox.live:
            return
        if sandbox.desired == "destroyed":
            await self._end(sandbox, failed="")
        elif sandbox.observed == "provisioning":
            await self._provision(sandbox)
        else:
            await self._settle(sandbox)

    async def _provision(self, sandbox: Sandbox) -> None:
        spec = SandboxSpec(
            instance=self._instance,
            sandbox_id=sandbox.id,
            incarnation=sandbox.incarnation,
            image=sandbox.image_id or sandbox.image,
            env=self._environment(sandbox),
            resources=self._resources,
        )
        try:
            # Nothing is made for one that was warm before.
            observed = await self._find(sandbox) or await self._backend.create(spec)
            await self._rows.note(sandbox.id, handle=observed.handle)
            if observed.state == "created":
                observed = await self._backend.start(observed.handle)
            await self._rows.note(
                sandbox.id,
                address=observed.address,
                port=observed.port,
                isolation=observed.isolation,
            )
            sandbox = await self._read(sandbox)
            # Before the agents inside are ready: they greet their API when they start.
            await self._egress.admit(sandbox)
            health = await self._until_it_answers(sandbox, observed)
            if sandbox.user_id is None:
                _check_agents(health)
            if sandbox.snapshot_id is not None:
                await self._keeper.restore(sandbox)
        except (BackendError, SandboxFailed) as error:
            _log.warning("sandbox.failed", sandbox=sandbox.id, reason=error.message)
            await self._end(await self._read(sandbox), failed=error.message)
            return
        versions = _versions(health)
        ready: State = "warm" if sandbox.user_id is None else "running"
        now = self._clock.now()
        await self._rows.observe(sandbox.id, ready, at=now, cli_versions=versions, snapshot_id=None)
        if sandbox.user_id is not None and sandbox.snapshot_id is not None:
            await self._rows.end_hibernated(sandbox.user_id, at=now, reason="")
        self._changed(await self._read(sandbox))

    async def _find(self, sandbox: Sandbox) -> Observed | None:
        """The container that an earlier step has made. Raises ``BackendError`` if it has ended."""
        observed = await self._backend.inspect(sandbox.handle) if sandbox.handle else None
        if observed is not None and observed.state == "exited":
            raise BackendError(_obituary(observed))
        return observed

    async def _until_it_answers(self, sandbox: Sandbox, observed: Observed) -> dict[str, Any]:
        """The runtime's health. A user's agents may still be starting, and a prompt waits for its
        own alone; nobody waits for a warm one, so all of its agents come first. Raises
        ``BackendError``.
        """
        try:
            async with asyncio.timeout(RUNTIME_ANSWERS_S):
                while True:
                    try:
                        health = await self._runtime.health(sandbox)
                        if sandbox.user_id is not None or health.get("status") == "ready":
                            return health
                        await asyncio.sleep(_AGENTS_POLL_S)
                    except RuntimeUnreachable:
                        now = await self._backend.inspect(observed.handle)
                        if now is None or now.state == "exited":
                            raise BackendError(_obituary(now)) from None
                        await asyncio.sleep(_POLL_S)
                    except RuntimeRefused as refused:
                        raise BackendError(
                            f"The runtime refused us ({refused.status})."
                        ) from refused
        except TimeoutError:
            raise BackendError(
                f"The runtime did not answer within {RUNTIME_ANSWERS_S} seconds."
            ) from None

    async def _settle(self, sandbox: Sandbox) -> None:
        """One that is up: see that it is, and let it run, freeze it or put it away."""
        if sandbox.observed == "frozen" and sandbox.desired == "running" and sandbox.handle:
            # Somebody waits: in one call of the engine, and what it is is seen if that fails.
            with contextlib.suppress(BackendError):
                await self._backend.unfreeze(sandbox.handle)
                await self._rows.observe(sandbox.id, "running", at=self._clock.now())
                self._changed(await self._read(sandbox))
                return
        observed = await self._backend.inspect(sandbox.handle) if sandbox.handle else None
        if observed is None or observed.state in {"exited", "created"}:
            await self._end(sandbox, failed=_obituary(observed))
            return
        match sandbox.desired:
            case "hibernated":
                await self._hibernate(sandbox, observed)
            case "frozen":
                await self._freeze(sandbox, observed)
            case _:
                await self._unfreeze(sandbox, observed)
                self._changed(await self._read(sandbox))

    async def _freeze(self, sandbox: Sandbox, observed: Observed) -> None:
        if observed.state != "frozen":
            await self._before_rest(sandbox)
            if (await self._read(sandbox)).desired != "frozen":
                return  # whoever changed it has woken us
            await self._backend.freeze(observed.handle)
        if sandbox.observed != "frozen":
            await self._rows.observe(sandbox.id, "frozen", at=self._clock.now())
        self._changed(await self._read(sandbox))

    async def _unfreeze(self, sandbox: Sandbox, observed: Observed) -> None:
        if observed.state == "frozen":
            await self._backend.unfreeze(observed.handle)
        if sandbox.observed == "frozen":
            await self._rows.observe(sandbox.id, "running", at=self._clock.now())

    async def _hibernate(self, sandbox: Sandbox, observed: Observed) -> None:
        """Its container goes once its snapshot is safe, and only if nobody wants it to run by
        then. If it cannot be saved it goes on, frozen, with the reason.
        """
        if observed.state == "frozen":
            await self._backend.unfreeze(observed.handle)
        await self._before_rest(sandbox)
        try:
            await self._keeper.save(sandbox)
        except HutchError as error:
            _log.warning("sandbox.not_hibernated", sandbox=sandbox.id, reason=error.message)
            await self._rows.keep_frozen(sandbox.id, reason=error.message[:_REASON_MAX])
            await self.step(sandbox.id)
            return
        if not await self._rows.hibernated(sandbox.id, at=self._clock.now()):
            await self.step(sandbox.id)
            return
        # From here on the user may have another container. What fails now is made good by the tasks
        # of containers and gateway.
        try:
            await self._egress.dismiss(sandbox)
            await self._backend.destroy(observed.handle)
        finally:
            self._changed(await self._read(sandbox))

    async def _end(self, sandbox: Sandbox, *, failed: str) -> None:
        if sandbox.observed == "running" and not failed:
            await self._before_rest(sandbox)
        await self._egress.dismiss(sandbox)
        if sandbox.handle is not None:
            await self._backend.destroy(sandbox.handle)
        else:  # killed between creating the container and noting its handle
            for observed in await self._backend.list():
                if observed.incarnation == sandbox.incarnation:
                    await self._backend.destroy(observed.handle)
        await self._rows.observe(
            sandbox.id,
            "failed" if failed else "destroyed",
            at=self._clock.now(),
            reason=failed[:_REASON_MAX],
        )
        self._changed(await self._read(sandbox))

    async def _read(self, sandbox: Sandbox) -> Sandbox:
        return await self._rows.get(sandbox.id) or sandbox


def _obituary(observed: Observed | None) -> str:
    if observed is None:
        return "The container is gone; somebody removed it."
    if observed.oom_killed:
        return "The container used more memory than it may and was ended."
    return f"The container ended by itself with exit code {observed.exit_code}."


def _check_agents(health: dict[str, Any]) -> None:
    """Raises ``BackendError`` for a warm one that is not worth giving to anybody."""
    agents = health.get("agents")
    for agent in agents if isinstance(agents, list) else []:
        if isinstance(agent, dict) and agent.get("state") == "failed":
            provider, why = str(agent.get("provider"))[:16], str(agent.get("reason"))[:300]
            raise BackendError(f"The agent of {provider} did not start: {why}")


def _versions(health: dict[str, Any]) -> dict[str, str]:
    """The versions that the runtime reports; bounded, since it is not to be trusted."""
    said = health.get("cli")
    said = said if isinstance(said, dict) else {}
    versions: dict[str, str] = {name: str(said.get(name, "unknown"))[:64] for name in PROVIDERS}
    return {**versions, "runtime": str(health.get("runtime", "unknown"))[:64]}
