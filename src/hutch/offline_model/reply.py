"""Sending an answer, slowly if asked, while watching whether the client is still there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hutch.offline_model.behaviour import HANG_S, Answer
from hutch.offline_model.recorded import Recorded
from hutch.offline_model.wire import Script

ANSWER_TIMEOUT_S: Final = 1200.0


class Reply(Response):
    """A response in chunks. Starlette's own streaming response would notice a client that went
    away only at its next chunk, which for a hang is never, and not tell us.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        media_type: str,
        recorded: Recorded,
        ended: Callable[[], None],
    ) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]  # it is that of an empty body
        self._chunks = chunks
        self._recorded = recorded
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope  # the interface of a Response
        sender = asyncio.create_task(self._send(send))
        watcher = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait(
                {sender, watcher},
                timeout=ANSWER_TIMEOUT_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            self._recorded.disconnected_early = watcher.done() and not sender.done()
        finally:
            sender.cancel()
            watcher.cancel()
            await asyncio.gather(sender, watcher, return_exceptions=True)
            self._ended()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def play(script: Script, answer: Answer) -> AsyncIterator[bytes]:
    for event in script.opening:
        yield event
    if answer.hang:
        await asyncio.sleep(HANG_S)
    for number, event in enumerate(script.pieces):
        if number and answer.pause_s:
            await asyncio.sleep(answer.pause_s)
        yield event
    for event in script.closing:
        yield event


async def play_whole(body: dict[str, Any], answer: Answer) -> AsyncIterator[bytes]:
    if answer.hang:
        await asyncio.sleep(HANG_S)
    elif answer.pause_s:
        await asyncio.sleep(min(answer.pause_s * (len(answer.pieces) - 1), HANG_S))
    yield json.dumps(body).encode()
