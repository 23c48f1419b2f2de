"""A terminal in the user's container, over a connection that heals.

Output and input are numbered by byte, so that a connection that broke is made anew with nothing
lost or doubled. Of input as much is kept as the program has not taken; of output no more comes than
a window beyond what was read.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI, WebSocketException

from hutch.client.errors import ClientError, Conflict, NotSent, Unreachable, refusal
from hutch.client.retries import Patience

if TYPE_CHECKING:
    from hutch.client.asynchronous import AsyncClient

# lost: so many bytes of output are gone. warning: it ends by itself in so many seconds.
NoticeKind: TypeAlias = Literal["broken", "back", "lost", "warning"]

INPUT_WINDOW_BYTES: Final = 64 * 1024
_FRAME_BYTES: Final = 32 * 1024
_SEEN_EVERY_BYTES: Final = 16 * 1024
_PING_EVERY_S: Final = 15.0
_OPEN_S: Final = 10.0
_ENDED: Final = 1000
_REPLACED: Final = 4409
_REFUSED: Final = 4000  # and a status of HTTP


@dataclass(frozen=True, slots=True)
class Notice:
    kind: NoticeKind
    value: float = 0


@dataclass(frozen=True, slots=True)
class Exit:
    """``code``: 128 and the signal's number if one ended it. ``reason``: "" if nobody ended it."""

    code: int
    reason: str


class Places:
    """How far output and input have come. Nothing is sent here."""

    def __init__(self, after: int) -> None:
        self.seen = after  # the next byte of output
        self.lost = 0
        self._kept = bytearray()  # input that may have to be sent again
        self._from: int | None = None  # the number of its first byte
        self._written = 0

    def opened(self, said: Mapping[str, Any]) -> bytes:
        """The connection is there: what of the input has not arrived."""
        lost, arrived = int(said["lost"]), int(said["input"])
        self.lost += lost
        self.seen = int(said["offset"])
        if self._from is not None:
            del self._kept[: max(0, arrived - self._from)]
        self._from = arrived
        self._written = int(said["written"])
        return bytes(self._kept)

    @property
    def room(self) -> int:
        """Bytes of input that may be sent now."""
        sent = (self._from or 0) + len(self._kept)
        return max(0, INPUT_WINDOW_BYTES - (sent - self._written))

    def entered(self, data: bytes) -> None:
        self._kept += data

    def written(self, count: int) -> None:
        self._written = max(self._written, count)
        if self._from is not None and count > self._from:
            del self._kept[: count - self._from]
            self._from = count


class AsyncTerminal:
    """Use as an asynchronous context manager, and iterate over it for its output. Whoever opened it
    ends it by leaving, unless they ``detach``; one that was there before is left alone.
    """

    def __init__(
        self,
        client: AsyncClient,
        *,
        command: Sequence[str] | None,
        terminal_id: str | None,
        after: int,
        tty: bool,
        rows: int,
        columns: int,
        term: str,
        on_notice: Callable[[Notice], None] | None,
    ) -> None:
        self._client = client
        self._open = partial(
            client.open_terminal, command, tty=tty, rows=rows, columns=columns, term=term
        )
        self._own = terminal_id is None
        self.id = terminal_id or ""
        self.exit: Exit | None = None
        self._places = Places(after)
        self._notify = on_notice or (lambda _: None)
        self._size = (rows, columns) if tty else None
        self._eof = False
        self._socket: ClientConnection | None = None
        self._output: deque[bytes] = deque()
        self._said_seen = after
        self._changed = asyncio.Condition()
        self._failed: ClientError | None = None
        self._refused = b""  # what the service has said before it closed
        self._was_there = self._told_broken = False
        self._over = False
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Raises ``ClientError`` where it cannot be had."""
        if self._own:
            self.id = (await self._open()).id
        self._running = asyncio.create_task(self._run(), name=f"terminal {self.id}")
        async with self._changed:
            await self._changed.wait_for(lambda: self._socket or self._over)
        if self._failed is not None:
            await self._stop()
            raise self._failed
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()
        if self._own and self.exit is None:
            await self._client.end_terminal(self.id)

    @property
    def offset(self) -> int:
        """Of the first byte of output that was not read: what to come back with."""
        return self._places.seen - sum(map(len, self._output))

    @property
    def lost(self) -> int:
        """Bytes of output that nobody will see."""
        return self._places.lost

    def detach(self) -> None:
        """Leave it running when the context is left."""
        self._own = False

    async def send(self, data: bytes) -> None:
        """Type this. Returns once it is on its way, which waits for its program if that is slow, or
        for a connection that broke. Raises ``ClientError`` if there is no terminal any more.
        """
        for start in range(0, len(data), _FRAME_BYTES):
            piece = data[start : start + _FRAME_BYTES]
            async with self._changed:
                await self._changed.wait_for(partial(self._has_room, len(piece)))
                if self._over:
                    raise self._failed or Conflict("The terminal has ended.", status=409)
                self._places.entered(piece)
                await self._put(piece)

    async def resize(self, rows: int, columns: int) -> None:
        self._size = (rows, columns)
        async with self._changed:
            await self._say("resize", rows=rows, columns=columns)

    async def end_input(self) -> None:
        """As Ctrl-D; a pipe is closed."""
        self._eof = True
        async with self._changed:
            await self._say("eof")

    async def read(self) -> bytes:
        """Output; b"" at the end, when ``exit`` is known. Raises ``ClientError`` if there will be
        no more for another reason.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._output or self._over)
            if not self._output:
                if self._failed is not None:
                    raise self._failed
                return b""
            data = self._output.popleft()
            if self.offset - self._said_seen >= _SEEN_EVERY_BYTES:
                await self._say_seen()
            return data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    def _has_room(self, size: int) -> bool:
        return self._over or self._places.room >= size

    async def _stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        patience = Patience(self._client._options.retry_for_s)  # noqa: SLF001  its other half
        try:
            while True:
                try:
                    await self._connected(patience)
                    return
                except ClientError as error:
                    await self._note_broken()
                    await asyncio.sleep(patience.pause_after(error, repeatable=True))
        except ClientError as error:
            self._failed = error
        finally:
            async with self._changed:
                self._over = True
                self._socket = None
                self._changed.notify_all()

    async def _note_broken(self) -> None:
        async with self._changed:
            self._socket = None
        if self._was_there and not self._told_broken:
            self._told_broken = True
            self._notify(Notice("broken"))

    async def _connected(self, patience: Patience) -> None:
        """One connection. Returns when the terminal has ended; raises ``ClientError``."""
        options = self._client._options  # noqa: SLF001  the same
        query = urlencode({"terminal": self.id, "after": str(self._places.seen)})
        url = f"{options.url}/v1/terminal?{query}"
        headers = {"authorization": f"Bearer {options.key}"}
        if options.user_id is not None:
            headers["x-hutch-user"] = options.user_id
        trusted = self._client._trusted  # noqa: SLF001  the same
        try:
            async with connect(
                "ws" + url.removeprefix("http"),
                additional_headers=headers,
                ssl=trusted if url.startswith("https:") else None,
                proxy=None,  # not behind the proxy of this machine's browser
                compression=None,
                open_timeout=_OPEN_S,
                close_timeout=1,
                ping_interval=_PING_EVERY_S,
                max_size=2**20,
            ) as socket:
                await self._listen(socket, patience)
        except ConnectionClosed as closed:
            raise self._reason(closed) from None
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI, ssl.SSLError) as error:
            what = f"The service at {options.url} does not answer ({type(error).__name__})."
            raise NotSent(what) from None
        except WebSocketException as error:
            raise Unreachable(f"The connection broke ({type(error).__name__}).") from None

    async def _listen(self, socket: ClientConnection, patience: Patience) -> None:
        self._refused = b""
        async for message in socket:
            if isinstance(message, bytes):
                patience.progress()
                async with self._changed:
                    self._places.seen += len(message)
                    self._output.append(message)
                    self._changed.notify_all()
                continue
            said = json.loads(message)
            match said["type"]:
                case "ready":
                    await self._begin(socket, said)
                case "written":
                    async with self._changed:
                        self._places.written(int(said["input"]))
                        self._changed.notify_all()
                case "warning":
                    self._notify(Notice("warning", said["ends_in_s"]))
                case "exit":
                    self.exit = Exit(int(said["code"]), str(said["reason"]))
                    return
                case "error":
                    self._refused = json.dumps({"error": said}).encode()
        raise Unreachable("The connection ended.")

    async def _begin(self, socket: ClientConnection, said: Mapping[str, Any]) -> None:
        async with self._changed:
            missing = self._places.opened(said)
            self._socket = socket
            await self._say_seen()
            if self._size is not None:
                await self._say("resize", rows=self._size[0], columns=self._size[1])
            for start in range(0, len(missing), _FRAME_BYTES):
                await self._put(missing[start : start + _FRAME_BYTES])
            if self._eof:
                await self._say("eof")
            self._changed.notify_all()
        if said["lost"]:
            self._notify(Notice("lost", said["lost"]))
        if self._told_broken:
            self._notify(Notice("back"))
        self._was_there, self._told_broken = True, False

    def _reason(self, closed: ConnectionClosed) -> ClientError:
        code = closed.rcvd.code if closed.rcvd is not None else 1006
        if code == _REPLACED:
            return Conflict(
                "Another connection has taken over this terminal.", code="replaced", status=409
            )
        if code > _REFUSED:
            return refusal(code - _REFUSED, {}, self._refused)
        return Unreachable("The connection broke.")

    async def _say_seen(self) -> None:
        self._said_seen = self.offset
        await self._say("seen", offset=self._said_seen)

    async def _say(self, kind: str, /, **fields: Any) -> None:
        await self._put(json.dumps({"type": kind, **fields}))

    async def _put(self, message: str | bytes) -> None:
        """What is lost with a connection is sent again over the next."""
        if self._socket is not None:
            try:
                await self._socket.send(message)
            except ConnectionClosed:
                self._socket = None
