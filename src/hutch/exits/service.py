"""Who leaves through which exit. One exit a user, kept for as long as it lives; fail closed.

The tables decide; what is in memory is their last reading, so that the path of a prompt needs no
query. Does not probe: that is ``hutch.control.exits``, which tells what it saw.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal

import aiohttp
import structlog

from hutch.clock import Clock
from hutch.errors import Conflict, DoesNotOpen, ExitUnavailable, NotFound, Unavailable
from hutch.exits.models import Exit, Happening, Health, Imported, Lease, Leaving, NewExit, Role
from hutch.exits.rows import ExitRows, added, changed, happened, removed
from hutch.gateway.base import Failure, GatewayControl
from hutch.gateway.connector import WayConnector
from hutch.gateway.table import ExitProxy
from hutch.ids import is_id, new_id
from hutch.secrets import Secret
from hutch.vault.data_keys import INSTALLATION, DataKeys

_log = structlog.get_logger()

HISTORY_MAX: Final = 200
_NONE_FREE: Final = "no exit is free: every one is leased, drained, expired or does not answer."


class Exits:
    def __init__(
        self,
        rows: ExitRows,
        data_keys: DataKeys,
        clock: Clock,
        *,
        gateway: GatewayControl,
        egress: Literal["direct", "exits"],
        moved: Callable[[str], Awaitable[None]],
    ) -> None:
        """``moved`` is told of a user whose exit changed, to push it to the gateway."""
        self._rows = rows
        self._data_keys = data_keys
        self._clock = clock
        self._gateway = gateway
        self._egress = egress
        self._moved = moved
        self._exits: dict[str, Exit] = {}
        self._held: dict[tuple[str, Role], Exit] = {}
        self._passwords: dict[str, Secret] = {}
        # Choosing a free one and taking it; the tables settle it with other processes.
        self._changing = asyncio.Lock()

    @property
    def required(self) -> bool:
        """Whether users leave through exits alone."""
        return self._egress == "exits"

    async def load(self) -> None:
        """Read the tables. Once at start, and after each change."""
        known = {exit_.id: exit_ for exit_ in await self._rows.all()}
        self._exits = known
        self._held = {
            (exit_.user_id, exit_.role): exit_
            for exit_ in known.values()
            if exit_.user_id is not None and exit_.role is not None
        }

    def all(self) -> list[Exit]:
        return list(self._exits.values())

    def get(self, exit_id: str) -> Exit:
        """Raises ``NotFound``."""
        found = self._exits.get(exit_id) if is_id(exit_id, "exit") else None
        if found is None:
            raise NotFound("There is no such exit.", hint="`hutch admin exits list` shows all ids.")
        return found

    def of(self, user_id: str) -> Lease | None:
        """The lease that the user has now, from memory."""
        home = self._held.get((user_id, "home"))
        return Lease(self._held.get((user_id, "spare"), home), home) if home is not None else None

    async def history(self, user_id: str | None, *, limit: int = 50) -> list[Happening]:
        return await self._rows.history(user_id=user_id, limit=min(limit, HISTORY_MAX))

    async def import_(self, inventory: Sequence[NewExit], *, dry_run: bool = False) -> Imported:
        """Add those that are new, and give the others their new password, address and label.
        Nothing is taken away: ``drain`` and ``remove`` do that.
        """
        async with self._changing:
            known = {exit_.key: exit_ for exit_ in self._exits.values()}
            fresh, statements, touched = [], [], []
            for new in inventory:
                old = known.get(new.key)
                if old is None:
                    fresh.append(await self._row(new))
                elif values := await self._differences(old, new):
                    statements.append(changed(old.id, **values))
                    touched.append(old.id)
            done = Imported(len(fresh), len(touched), len(inventory) - len(fresh) - len(touched))
            if dry_run:
                return done
            await self._rows.write(*([added(fresh)] if fresh else []), *statements)
            for exit_id in touched:
                self._passwords.pop(exit_id, None)
            await self.load()
        await self._tell(self._exits[exit_id].user_id for exit_id in touched)
        return done

    async def lease(self, user_id: str) -> Lease:
        """The user's exit: the one that they have, else the one that they had, else a free one.
        Raises ``ExitUnavailable``.
        """
        held = self.of(user_id)
        if held is not None:
            return held
        async with self._changing:
            held = self.of(user_id) or await self._take(user_id, "home")
        if held is None:
            raise ExitUnavailable(
                f"There is no address for this user: {_NONE_FREE}",
                hint="The operator adds exits with `hutch admin exits import`.",
            )
        _log.info("exit.leased", user=user_id, exit=held.exit.id)
        return held

    async def release(self, user_id: str) -> list[str]:
        """Give back what the user has; the ids. They get the same again while it is free."""
        async with self._changing:
            held = [e for role in ("spare", "home") if (e := self._held.get((user_id, role)))]
            for exit_ in held:
                await self._rows.release(exit_, "released", "", at=self._clock.now())
            await self.load()
        await self._tell([user_id] if held else [])
        return [exit_.id for exit_ in held]

    async def drain(self, exit_id: str, *, move: bool) -> Exit:
        """Lease it to nobody else; with ``move`` its user gets another one now.

        Raises ``NotFound``; ``ExitUnavailable`` if there is none to move to: then its user keeps
        it.
        """
        async with self._changing:
            exit_ = self.get(exit_id)
            await self._rows.write(changed(exit_.id, state="draining"))
            await self.load()
            user_id = exit_.user_id if move else None
            if user_id is not None and exit_.role is not None:
                await self._replace(self.get(exit_id), user_id, exit_.role)
        await self._tell([user_id])
        return self.get(exit_id)

    async def remove(self, exit_id: str, *, force: bool) -> None:
        """Forget it. Raises ``Conflict`` while it is leased, unless ``force``: then its user is
        without an exit, and gets another one with their next run if there is one.
        """
        async with self._changing:
            exit_ = self.get(exit_id)
            if exit_.user_id is not None:
                if not force:
                    raise Conflict(
                        f"This exit is leased to {exit_.user_id}.",
                        hint="Drain it with --move first, or remove it with --force.",
                    )
                spare = self._held.get((exit_.user_id, "spare"))
                if exit_.role == "home" and spare is not None:
                    await self._rows.release(spare, "released", "", at=self._clock.now())
                await self._rows.release(exit_, "removed", "", at=self._clock.now())
            await self._rows.write(removed(exit_.id))
            self._passwords.pop(exit_.id, None)
            await self.load()
        await self._tell([exit_.user_id])

    async def leaving(self, user_id: str) -> Leaving:
        """How the user's sandbox leaves; leases an exit if need be. Never ``direct`` where exits
        are required, whatever fails.
        """
        if not self.required:
            return Leaving("direct")
        try:
            lease = await self.lease(user_id)
        except ExitUnavailable as error:
            return Leaving("closed", closed_because=error.message)
        try:
            return Leaving("exit", await self.proxy(lease.exit))
        except DoesNotOpen:  # this user's alone: the others' table must not wait for it
            why = f"the password of the exit {lease.exit.id} does not open; import it again."
            return Leaving("closed", closed_because=why)

    async def connector(self, user_id: str) -> aiohttp.BaseConnector | None:
        """For requests that Hutch itself makes for the user: they leave as the user's own do. None
        is the server's own address. Raises ``ExitUnavailable``; its client raises
        ``hutch.gateway.refusals.Refusal``.
        """
        leaving = await self.leaving(user_id)
        if leaving.egress == "closed":
            raise ExitUnavailable(leaving.closed_because)
        return WayConnector(leaving.exit, reuse=False) if leaving.exit is not None else None

    async def proxy(self, exit_: Exit) -> ExitProxy:
        """With its password in the clear, for the gateway's table and for probes. Raises
        ``DoesNotOpen``, ``KeyUnavailable``.
        """
        password = self._passwords.get(exit_.id)
        if password is None:
            opened = await self._data_keys.open(INSTALLATION, _context(exit_.id), exit_.sealed)
            password = self._passwords[exit_.id] = Secret(opened.decode())
        return exit_.proxy(password)

    async def for_run(self, user_id: str) -> Exit | None:
        """What a run that begins now will leave through; None where users leave directly. Raises
        ``ExitUnavailable``, also when the user's exit is known not to work: nobody need be woken
        then.
        """
        if not self.required:
            return None
        exit_ = (await self.lease(user_id)).exit
        if not exit_.works:
            raise ExitUnavailable(
                f"The exit {exit_.id} does not work: {exit_.reason}",
                hint="It is probed every few seconds; try again once `hutch exit` says it is up.",
            )
        return exit_

    def seen_ip(self, exit_id: str) -> str | None:
        """The address that the exit was last seen from."""
        exit_ = self._exits.get(exit_id)
        return exit_.seen_ip if exit_ is not None else None

    async def failure(self, sandbox_id: str, incarnation: str, since: float) -> Failure | None:
        """Whether an exit failed this sandbox since then, as the gateway saw it."""
        if not self.required:
            return None
        try:
            return await self._gateway.failure(sandbox_id, incarnation, since)
        except Unavailable:
            return None  # the run has its error from the CLI then

    async def note_probe(
        self,
        exit_id: str,
        health: Health,
        *,
        reason: str = "",
        seen_ip: str | None = None,
        probed: ExitProxy | None = None,
    ) -> Exit | None:
        """What a probe found, and the exit as it is now; None if it was removed meanwhile, or has
        another password than the one that was ``probed``.
        """
        async with self._changing:
            before = self._exits.get(exit_id)
            if before is None or (probed is not None and await self.proxy(before) != probed):
                return None
            now = self._clock.now()
            values: dict[str, Any] = {"health": health, "reason": reason, "probed_at": now}
            if health in {"down", "drifted"}:
                values["failures"] = before.failures + 1
            elif health == "up":
                values["failures"] = 0
            # The address that a static exit had first is the one that it should have.
            if seen_ip is not None and health == "up":
                values["seen_ip"] = seen_ip
            statements = [changed(exit_id, **values)]
            if health != before.health and (before.health, health) != ("unknown", "up"):
                statements.append(happened(exit_id, before.user_id, health, reason, now))
                _log.warning(
                    "exit.health", exit=exit_id, user=before.user_id, health=health, reason=reason
                )
            await self._rows.write(*statements)
            await self.load()
            return self._exits[exit_id]

    async def give_spare(self, user_id: str) -> Lease | None:
        """A second exit while the user's own does not work; None if none is free."""
        async with self._changing:
            lease = self.of(user_id)
            if lease is None or lease.spare:
                return lease
            lease = await self._take(user_id, "spare")
        if lease is not None:
            _log.warning("exit.spare", user=user_id, exit=lease.home.id, spare=lease.exit.id)
            await self._tell([user_id])
        return lease

    async def end_spare(self, user_id: str, *, healed: bool) -> None:
        """Back to the user's own exit, which works again or, if not ``healed``, is no worse."""
        async with self._changing:
            spare = self._held.get((user_id, "spare"))
            home = self._held.get((user_id, "home"))
            if spare is None or home is None:
                return
            now = self._clock.now()
            if healed:
                told = [happened(home.id, user_id, "healed", "", now)]
                await self._rows.release(spare, "released", "", at=now, also=told)
                _log.info("exit.healed", user=user_id, exit=home.id)
            else:
                await self._rows.release(spare, "released", "it does not work either", at=now)
            await self.load()
        await self._tell([user_id])

    async def _take(self, user_id: str, role: Role) -> Lease | None:
        now = self._clock.now()
        tried: set[str] = set()
        while True:
            free = [e for e in self._exits.values() if e.free(now) and e.id not in tried]
            if not free:
                return self.of(user_id) if role == "home" else None
            chosen = min(free, key=lambda e: _order(e, user_id))
            tried.add(chosen.id)
            await self._rows.lease(chosen, user_id, role, at=now)
            await self.load()
            if (user_id, role) in self._held:
                return self.of(user_id)

    async def _replace(self, exit_: Exit, user_id: str, role: Role) -> None:
        now = self._clock.now()
        free = [e for e in self._exits.values() if e.free(now) and e.id != exit_.id]
        if not free:
            raise ExitUnavailable(
                f"Its user cannot be moved: {_NONE_FREE}",
                hint="Import more exits; until then this one's user keeps it.",
            )
        await self._rows.release(exit_, "released", "drained", at=now)
        await self.load()
        if await self._take(user_id, role) is None:
            _log.warning("exit.none_free", user=user_id)

    async def _row(self, new: NewExit) -> dict[str, Any]:
        exit_id = new_id("exit")
        return {
            "id": exit_id,
            "kind": new.kind,
            "host": new.host,
            "port": new.port,
            "username": new.username,
            "sealed": await self._seal(exit_id, new),
            "label": new.label,
            "expected_ip": new.expected_ip,
            "expires_at": new.expires_at,
            "state": "active",
            "health": "unknown",
            "reason": "",
            "failures": 0,
            "created_at": self._clock.now(),
        }

    async def _differences(self, old: Exit, new: NewExit) -> dict[str, Any]:
        values = {
            name: getattr(new, name)
            for name in ("kind", "label", "expected_ip", "expires_at")
            if getattr(new, name) != getattr(old, name)
        }
        try:
            same = (await self.proxy(old)).password == new.password
        except DoesNotOpen:
            same = False
        if not same:
            values["sealed"] = await self._seal(old.id, new)
        if values and old.health != "unknown":
            values |= {"health": "unknown", "reason": "", "failures": 0}  # to be probed anew
        return values

    async def _seal(self, exit_id: str, new: NewExit) -> bytes:
        password = new.password.reveal().encode()
        return await self._data_keys.seal(INSTALLATION, _context(exit_id), password)

    async def _tell(self, users: Any) -> None:
        for user_id in {user for user in users if user is not None}:
            # A gateway that does not answer gets the whole table when it does.
            with contextlib.suppress(Unavailable):
                await self._moved(user_id)


def _context(exit_id: str) -> str:
    return f"exit {exit_id}"


def _order(exit_: Exit, user_id: str) -> tuple[bool, bool, bool, float]:
    """The user's own of before, else a static one, one that nobody had, the oldest."""
    return (
        exit_.last_user_id != user_id,
        exit_.kind != "static",
        exit_.last_user_id is not None,
        exit_.created_at,
    )
