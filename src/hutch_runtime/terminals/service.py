"""The terminals of this sandbox."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from hutch_runtime.identity import Identity
from hutch_runtime.runs import SHUTTING_DOWN, Refused
from hutch_runtime.terminals.terminal import Terminal, Wanted

_log = logging.getLogger(__name__)

TERMINALS_MAX: Final = 16  # the orchestrator's own limit is lower
# For somebody who was cut off just before the end, and comes back for the exit code.
ENDED_KEPT_S: Final = 60.0
ENDED_MAX: Final = 16

DEFAULT_TERM: Final = "xterm-256color"
_TERM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_TERMINFO: Final = tuple(map(Path, ("/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo")))


class Terminals:
    def __init__(
        self, environment: Callable[[], Mapping[str, str]], workspace: Path, identity: Identity
    ) -> None:
        """``environment``: of a program that is started now."""
        self._environment = environment
        self._workspace = workspace
        self._identity = identity
        self._terminals: dict[str, Terminal] = {}
        self._opening: dict[str, asyncio.Future[Terminal]] = {}
        self._closing = False

    @property
    def live(self) -> list[Terminal]:
        return [one for one in self._terminals.values() if one.end_of_it is None]

    async def open(
        self,
        terminal_id: str,
        *,
        argv: tuple[str, ...],
        tty: bool,
        rows: int,
        columns: int,
        term: str,
        idle_s: float,
        detached_s: float,
    ) -> Terminal:
        """Asking twice opens one. Raises ``Refused``."""
        if terminal_id in self._opening:
            return await asyncio.shield(self._opening[terminal_id])
        if terminal_id in self._terminals:
            return self._terminals[terminal_id]
        if self._closing:
            raise Refused("runtime_error", SHUTTING_DOWN)
        if len(self.live) + len(self._opening) >= TERMINALS_MAX:
            raise Refused("too_many_terminals", f"There are {TERMINALS_MAX} terminals.")
        environment = {**self._environment(), "TERM": _known(term)}
        wanted = Wanted(
            terminal_id,
            argv or (environment.get("SHELL", "/bin/bash"),),
            tty,
            rows,
            columns,
            self._workspace,
            environment,
            idle_s,
            detached_s,
        )
        opened = self._opening[terminal_id] = asyncio.get_running_loop().create_future()
        terminal = Terminal(wanted, self._forget_old)
        try:
            await terminal.start(self._identity)
        except OSError as error:
            refused = Refused("terminal_failed", f"It could not be started: {error.strerror}.")
            opened.set_exception(refused)
            opened.exception()  # nobody else may wait for it
            raise refused from None
        else:
            self._terminals[terminal_id] = terminal
            opened.set_result(terminal)
            return terminal
        finally:
            opened.cancel()
            del self._opening[terminal_id]

    def get(self, terminal_id: str) -> Terminal:
        """Also one that has just ended. Raises ``Refused``."""
        self._forget_old()
        terminal = self._terminals.get(terminal_id)
        if terminal is None:
            raise Refused("terminal_not_found", "There is no such terminal.")
        return terminal

    async def end(self, terminal_id: str, reason: str) -> None:
        """Raises ``Refused``."""
        await self.get(terminal_id).end(reason)

    async def end_all(self, reason: str) -> None:
        await asyncio.gather(*(one.end(reason) for one in self.live))

    async def close(self) -> None:
        self._closing = True
        await self.end_all(SHUTTING_DOWN)

    def report(self) -> list[dict[str, Any]]:
        return [
            {
                "terminal_id": one.wanted.terminal_id,
                "command": list(one.wanted.argv),
                "tty": one.wanted.tty,
                "attached": one.attached,
                "created_at": one.created_at,
                "offset": one.offset,
            }
            for one in self.live
        ]

    def _forget_old(self) -> None:
        ended = [
            (one.ended_at, name)
            for name, one in self._terminals.items()
            if one.end_of_it is not None and not one.attached
        ]
        old = time.monotonic() - ENDED_KEPT_S
        ended.sort()
        for at, name in ended[: max(0, len(ended) - ENDED_MAX)]:
            del self._terminals[name], at
        for at, name in ended[-ENDED_MAX:]:
            if at < old:
                del self._terminals[name]


def _known(term: str) -> str:
    """As its client says, if the programs here have a description of that."""
    if not _TERM.fullmatch(term):
        return DEFAULT_TERM
    places = (place / term[0] / term for place in _TERMINFO)
    return term if any(os.path.lexists(place) for place in places) else DEFAULT_TERM
