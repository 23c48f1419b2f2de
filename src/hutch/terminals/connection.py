"""One connection to a terminal in a sandbox: what is typed goes in, what is shown comes out.

Whoever is slow holds up the other end, and never fills this process: little is kept on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from hutch.sandboxes.intake import Intake
from hutch.sandboxes.runtime_client import RuntimeUnreachable
from hutch.terminals.inbound import read_said
from hutch.terminals.models import Output
from hutch_runtime.frames import (
    CONTROL,
    DATA,
    FRAME_MAX_BYTES,
    FrameError,
    FrameReader,
    control,
    frame,
)

_WAITING_MAX: Final = 4  # frames that are on their way in
# Bytes. What a program prints comes in larger ones; of the smallest, a megabyte is 170,000.
_SMALL: Final = 512


class Connection:
    def __init__(self) -> None:
        self._given: asyncio.Queue[bytes] = asyncio.Queue(_WAITING_MAX)
        self._intake = Intake()
        self.touched = 0  # grows with each byte, in or out

    async def enter(self, data: bytes) -> None:
        for start in range(0, len(data), FRAME_MAX_BYTES):
            await self._given.put(frame(DATA, data[start : start + FRAME_MAX_BYTES]))
        self.touched += len(data)

    async def resize(self, rows: int, columns: int) -> None:
        await self._given.put(control("resize", rows=rows, columns=columns))

    async def saw(self, offset: int) -> None:
        """The client has all output before ``offset``, and will go on saying so."""
        await self._given.put(control("seen", offset=offset))

    async def end_input(self) -> None:
        await self._given.put(control("eof"))

    async def given(self) -> AsyncIterator[bytes]:
        """For the runtime, until it is cancelled."""
        yield control("here")  # aiohttp sends a request's head with the first of its body
        while True:
            yield await self._given.get()

    async def read(self, pieces: AsyncIterator[bytes]) -> AsyncGenerator[Output, None]:
        """What the runtime sends. Raises ``RuntimeUnreachable`` for what it may not."""
        reader = FrameReader()
        try:
            async for piece in pieces:
                for kind, payload in reader.feed(piece):
                    if len(payload) < _SMALL:
                        await self._intake.took()
                    if kind == CONTROL:
                        said: dict[str, Any] | None = read_said(payload)
                        if said is not None:
                            yield Output(said=said)
                    elif payload:
                        self.touched += len(payload)
                        yield Output(payload)
        except FrameError as error:
            raise RuntimeUnreachable(str(error)) from None
