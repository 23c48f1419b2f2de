"""Who may knock: the orchestrator, which comes from outside; nobody inside has business here.

Without the key an agent would be refused anyhow. This bounds what its knocking can cost: a
connection of its own is closed before anything is kept of it or read from it.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol


class FromOutside(H11Protocol):
    _refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        given = cast("asyncio.Transport", transport)
        if from_inside(given.get_extra_info("sockname"), given.get_extra_info("peername")):
            self._refused = True
            given.abort()
        else:
            super().connection_made(given)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._refused:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def eof_received(self) -> None:
        if not self._refused:
            super().eof_received()


def from_inside(ours: Any, theirs: Any) -> bool:
    """Whether a connection was made on this machine, by the addresses of its two ends. One that is
    not to an address of the loopback cannot come from there, or it was made here.
    """
    if not isinstance(ours, tuple) or not isinstance(theirs, tuple):
        return True  # it is gone already
    here, there = (ipaddress.ip_address(str(end[0]).partition("%")[0]) for end in (ours, theirs))
    return here.is_loopback or there.is_loopback or here == there
