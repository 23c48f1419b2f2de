"""Two throw-away sandboxes, one of which attacks; nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from hutch.backends.base import WALL_SANDBOX, Backend, Observed, SandboxSpec
from hutch.backends.limits import resources_of
from hutch.config import Settings
from hutch.errors import BackendError, HostNotReady
from hutch.ids import new_id
from hutch.walls import vehicle
from hutch.walls.attacks import ATTACKS
from hutch.walls.judge import judge, judge_attacker, parse
from hutch.walls.models import Finding, Report
from hutch.walls.observer import host_addresses, observing
from hutch.walls.vehicle import Places

# Of the CLIs the one that starts soonest and takes the least: an agent to compare with.
_AGENT: Final = "codex"
_NEIGHBOUR_WITHIN_S: Final = 60.0
_POLL_S: Final = 0.1
_REMOVE_S: Final = 60.0


async def try_walls(settings: Settings, backend: Backend, image: str) -> Report:
    """Every attack, in sandboxes of ``image`` beside those of users. Raises ``BackendError`` where
    none could be made.
    """
    capabilities = await backend.capabilities()
    if capabilities.isolation == "none":
        raise HostNotReady(
            "The process backend has no walls that could be tried.",
            hint="Use HUTCH_BACKEND=docker for anything but tests.",
        )
    began = time.monotonic()
    gateway = await backend.prepare()
    async with (
        observing(gateway, settings.gateway_port) as observer,
        _two(settings, backend, image, gateway) as (attacker, neighbour),
    ):
        places = Places(
            gateway=gateway,
            gateway_port=settings.gateway_port,
            neighbour=neighbour.address or "",
            host_addresses=tuple(host_addresses(gateway)),
            watched=observer.watched,
        )
        there, output = await asyncio.gather(
            _answers(neighbour),
            backend.execute(
                attacker.handle,
                vehicle.command(ATTACKS, places),
                within_s=vehicle.WITHIN_S,
                output_max=vehicle.OUTPUT_MAX,
            ),
        )
        seen = frozenset(observer.seen)
    said, facts = parse(output)
    gvisor = capabilities.isolation == "gvisor"
    findings = [judge_attacker(facts), *judge(ATTACKS, said, seen, gvisor=gvisor)]
    if not there:
        findings = [_without_neighbour(finding) for finding in findings]
    return Report(capabilities.isolation, tuple(findings), time.monotonic() - began)


@asynccontextmanager
async def _two(
    settings: Settings, backend: Backend, image: str, gateway: str
) -> AsyncIterator[tuple[Observed, Observed]]:
    made: list[Observed] = []
    try:
        for _ in range(2):
            one = await backend.create(_spec(settings, image, gateway))
            made.append(one)  # at once: what was made has to be removed, whatever happens next
        first, second = await asyncio.gather(*(backend.start(one.handle) for one in made))
        yield first, second
    finally:
        # Also when this is being cancelled; what a crash leaves, the control loop removes.
        removal = asyncio.gather(*(backend.destroy(one.handle) for one in made))
        with contextlib.suppress(BackendError):
            await asyncio.wait_for(asyncio.shield(removal), _REMOVE_S)


def _spec(settings: Settings, image: str, gateway: str) -> SandboxSpec:
    """As a user's, and of nobody's: the gateway does not know it."""
    return SandboxSpec(
        instance=settings.instance,
        sandbox_id=f"{WALL_SANDBOX}{new_id('sbx')}",
        incarnation=new_id("inc"),
        image=image,
        env={
            # Of a key that nobody has: nothing is asked of the runtime.
            "HUTCH_RUNTIME_KEY_SHA256": hashlib.sha256(secrets.token_bytes(32)).hexdigest(),
            "HUTCH_GATEWAY_URL": f"http://{gateway}:{settings.gateway_port}",
            "HUTCH_PLACEHOLDER_KEY": "hutch-placeholder-of-nobody",
            "HUTCH_PREWARM": _AGENT,
        },
        resources=resources_of(settings),
    )


async def _answers(sandbox: Observed) -> bool:
    """Its runtime does, from here: else that it cannot be reached from inside says nothing."""
    until = time.monotonic() + _NEIGHBOUR_WITHIN_S
    while time.monotonic() < until:
        try:
            _, writer = await asyncio.open_connection(sandbox.address, sandbox.port)
        except OSError:
            await asyncio.sleep(_POLL_S)
            continue
        writer.close()
        return True
    return False


def _without_neighbour(finding: Finding) -> Finding:
    if not finding.name.startswith("neighbour") or finding.verdict != "held":
        return finding
    return Finding(
        finding.name,
        finding.tries,
        finding.must,
        "unclear",
        "the other sandbox did not answer this host either",
        "Is the host overloaded? `docker logs` of a sandbox, and `hutch doctor`.",
    )
