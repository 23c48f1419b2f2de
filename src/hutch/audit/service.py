"""Write the audit log, off a prompt's way; read it; verify it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from hutch.audit.anchor import Anchor
from hutch.audit.chain import BROKEN, Fault, Head, Link, Verifier, chain_key, sealed
from hutch.audit.models import Entry
from hutch.audit.rows import AuditRows
from hutch.clock import Clock
from hutch.errors import HutchError
from hutch.store.database import Database

_log = structlog.get_logger()

SUM_EVERY_S: Final = 60.0  # what is only counted becomes lines
SAY_EVERY_S: Final = 3600.0  # the head goes to the log, which may be shipped elsewhere
WAIT_S: Final = 3.0  # a change is answered then, also if its line is not stored yet
_GATHER_S: Final = 1.0  # lines that nobody waits for become one transaction
_AGAIN_S: Final = 1.0
_BATCH: Final = 500
_WAITING_MAX: Final = 10_000  # lines, about 4 MB; more are counted and lost
_COUNTED_MAX: Final = 1000  # different ones in a minute
_FAULTS_MAX: Final = 100
_OVERFLOW: Final = Entry("audit.counted_others", result="refused")


@dataclass(frozen=True, slots=True)
class Verdict:
    lines: int
    seal: str  # of the last line, to be kept elsewhere and compared
    faults: list[Fault]  # at most a hundred


class AuditLog:
    """Open it before anything is noted. One process writes: the one that leads."""

    def __init__(self, database: Database, clock: Clock, secret: bytes, anchor: Path) -> None:
        self._rows = AuditRows(database)
        self._clock = clock
        self._key = chain_key(secret)
        self._anchor = Anchor(anchor, secret)
        self._head = Head()
        self._waiting: list[tuple[str, asyncio.Future[None] | None]] = []
        self._counted: dict[Entry, int] = {}
        self._lost = 0
        self._tried: tuple[list[Link], int] | None = None  # and how many of those that wait
        self._wanted = asyncio.Event()
        self._urgent = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._said_at = 0.0

    async def open(self) -> None:
        self._head = await self._rows.head()
        known = await asyncio.to_thread(self._anchor.read)
        if known is None and self._head.count == 0:
            await asyncio.to_thread(self._anchor.write, self._head)
        elif known is None or (known.count and await self._rows.seal_of(known.count) != known.seal):
            had = "unknown" if known is None else str(known.count)
            _log.error("audit.broken", had=had, lines=self._head.count)
            target = (("had", had), ("has", str(self._head.count)))
            self.note(Entry(BROKEN, result="broken", target=target))
        self._writing = asyncio.create_task(self._write(), name="audit")

    async def close(self) -> None:
        """After a last try to store what waits."""
        self._sum_up()
        if self._writing is not None:
            self._writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writing
        with contextlib.suppress(HutchError, SQLAlchemyError, OSError):
            while self._waiting:
                await self._store()

    def note(self, entry: Entry) -> None:
        """It is stored within seconds; a crash before that loses it."""
        self._append(entry.line(self._clock.now()), None)

    async def record(self, entry: Entry) -> None:
        """Returns once it is stored and anchored, or after ``WAIT_S``."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._append(entry.line(self._clock.now()), stored)
        self._urgent.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                await stored

    def count(self, entry: Entry) -> None:
        """One of many alike: a line a minute says how many."""
        if entry not in self._counted and len(self._counted) >= _COUNTED_MAX:
            entry = _OVERFLOW
        self._counted[entry] = self._counted.get(entry, 0) + 1

    async def run(self) -> dict[str, int | str]:
        """A task of the control loop."""
        self._sum_up()
        now = self._clock.now()
        if now - self._said_at >= SAY_EVERY_S:
            self._said_at = now
            _log.info("audit.head", lines=self._head.count, seal=self._head.seal.hex())
        return {"lines": self._head.count, "waiting": len(self._waiting)}

    async def newest(self, *, before: int | None, limit: int) -> list[Link]:
        return await self._rows.before(before, limit)

    async def oldest(self, *, after: int, limit: int) -> list[Link]:
        return await self._rows.after(after, limit)

    async def verify(self, *, first: int = 1) -> Verdict:
        """``first``: the line to begin with; those before are taken as given."""
        anchored = await asyncio.to_thread(self._anchor.read)
        known = self._head
        before = Head()
        faults: list[Fault] = []
        if first > 1:
            seal = await self._rows.seal_of(first - 1)
            if seal is None:
                return Verdict(0, "", [Fault(first - 1, "there is no such line")])
            before = Head(first - 1, seal)
        verifier = Verifier(self._key, before)
        while links := await self._rows.after(verifier.head.count, 1000):
            for link in links:
                faults += verifier.take(link)
        if anchored is None:
            faults.append(Fault(known.count, "the anchor is missing, or was changed"))
        for head in {anchored or known, known}:
            faults += verifier.meets(head, await self._rows.seal_of(head.count))
        faults = sorted(set(faults), key=lambda fault: fault.seq)
        head = verifier.head
        return Verdict(head.count, head.seal.hex(), faults[:_FAULTS_MAX])

    def _append(self, line: str, stored: asyncio.Future[None] | None) -> None:
        if len(self._waiting) >= _WAITING_MAX:
            self._lost += 1
            return
        self._waiting.append((line, stored))
        self._wanted.set()

    def _sum_up(self) -> None:
        counted, self._counted = self._counted, {}
        for entry, times in counted.items():
            self._append(entry.line(self._clock.now(), times=times), None)

    async def _write(self) -> None:
        failing = False
        while True:
            await self._wanted.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GATHER_S):
                    await self._urgent.wait()
            self._wanted.clear()
            self._urgent.clear()
            try:
                while self._waiting:
                    await self._store()
                failing = False
            except (HutchError, SQLAlchemyError, OSError) as error:
                if not failing:
                    _log.error("audit.not_stored", error=type(error).__name__)
                failing = True
                await asyncio.sleep(_AGAIN_S)
                self._wanted.set()
                self._urgent.set()

    async def _store(self) -> None:
        """Not interrupted half-way: what was committed is known to be."""
        await asyncio.shield(asyncio.ensure_future(self._commit()))

    async def _commit(self) -> None:
        again = self._tried is not None
        links, waited = self._tried = self._tried or self._sealed()
        head = Head(links[-1].seq, links[-1].seal)
        # After a failure nobody knows whether it was stored: then it is the head already.
        if not again or await self._rows.seal_of(head.count) != head.seal:
            await self._rows.append(links)
        self._tried = None
        self._head = head
        done, self._waiting = self._waiting[:waited], self._waiting[waited:]
        await asyncio.to_thread(self._anchor.write, head)
        for _, stored in done:
            if stored is not None and not stored.done():
                stored.set_result(None)

    def _sealed(self) -> tuple[list[Link], int]:
        waiting = self._waiting[:_BATCH]
        lines = [line for line, _ in waiting]
        if self._lost:
            lost = Entry("audit.lost", result="lost")
            lines.append(lost.line(self._clock.now(), times=self._lost))
            self._lost = 0
        links: list[Link] = []
        head = self._head
        for line in lines:
            links.append(sealed(self._key, head, line))
            head = Head(links[-1].seq, links[-1].seal)
        return links, len(waiting)
