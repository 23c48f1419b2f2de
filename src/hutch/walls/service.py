"""Try the walls once for whatever they are made of, and remember what came of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Final

import structlog

from hutch.backends.base import Backend
from hutch.backends.limits import resources_of
from hutch.clock import Clock
from hutch.config import Settings
from hutch.errors import HostNotReady
from hutch.walls.models import Report
from hutch.walls.record import Outcome, Records
from hutch.walls.trial import try_walls

_log = structlog.get_logger()

# What other firewalls hold does not outlive it. On other systems there is no such file, and no such
# engine.
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_MADE_OF: Final = ("walls", "walls/inside", "backends")  # our own part in them


class Walls:
    def __init__(self, settings: Settings, backend: Backend, clock: Clock) -> None:
        self._settings = settings
        self._backend = backend
        self._clock = clock
        self._records = Records(settings.data_dir)
        self._sources = ""

    async def known(self, image: str) -> Outcome | None:
        """What came of it when these very walls were tried; None: they were not."""
        return self._records.find(await self._fingerprint(image))

    async def tried(self, image: str) -> Outcome:
        """The same, tried now if they were not. Walls that did not hold are tried again. Raises
        ``BackendError``, ``HostNotReady``.
        """
        fingerprint = await self._fingerprint(image)
        known = self._records.find(fingerprint)
        if known is not None and known.holds:
            return known
        report = await try_walls(self._settings, self._backend, image)
        outcome = await self.note(report, image)
        for name, detail, _ in outcome.failures:
            _log.error("wall.failed", wall=name, detail=detail)
        if outcome.holds:
            _log.info("walls.held", attempts=outcome.attempts, seconds=round(report.seconds, 1))
        return outcome

    async def note(self, report: Report, image: str) -> Outcome:
        """Remember what came of a trial."""
        outcome = Outcome.of(report, self._clock.now())
        fingerprint = await self._fingerprint(image)
        await asyncio.to_thread(self._records.keep, fingerprint, outcome)
        return outcome

    async def require(self, image: str) -> None:
        """Raises ``HostNotReady`` unless every wall holds."""
        outcome = await self.tried(image)
        if not outcome.holds:
            raise HostNotReady(
                f"The walls of a sandbox do not hold: {names(outcome)}.",
                hint="`hutch doctor --deep` says what to do about each. To serve all the same: "
                "HUTCH_WALLS=warn.",
            )

    async def _fingerprint(self, image: str) -> str:
        """Of all that the walls are made of, as far as it can be told without trying them."""
        if not self._sources:
            self._sources = await asyncio.to_thread(_sources)
        found = await self._backend.image(image)
        capabilities = await self._backend.capabilities()
        made_of = [
            self._sources,
            found.id if found is not None else image,
            capabilities.isolation,
            capabilities.engine,
            capabilities.firewall_warning == "",
            repr(resources_of(self._settings)),
            self._settings.subnet,
            self._settings.gateway_port,
            _BOOT_ID.read_text() if _BOOT_ID.exists() else "",
        ]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def names(outcome: Outcome) -> str:
    return ", ".join(name for name, _, _ in outcome.failures)


def _sources() -> str:
    digest = hashlib.sha256()
    for folder in _MADE_OF:
        directory = files("hutch").joinpath(folder)
        for module in sorted(directory.iterdir(), key=lambda each: each.name):
            if module.name.endswith(".py"):
                digest.update(module.read_bytes())
    return digest.hexdigest()
