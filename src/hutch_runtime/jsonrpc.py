"""JSON-RPC 2.0, both ways, one message a line, as ``codex app-server`` and ``gemini --acp`` do.

It owns no process: lines go out through a function and come in through ``feed``. What comes in was
written by a program that runs a stranger's prompts, so nothing in it is trusted: a line that is
not a message is reported and skipped, an answer to a question that nobody asked is ignored.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

_log = logging.getLogger(__name__)

METHOD_NOT_FOUND: Final = -32601
INTERNAL_ERROR: Final = -32603
# A question that gets no answer in this time never will; the slowest known, a start, takes 2 s.
REQUEST_TIMEOUT_S: Final = 30.0
MESSAGE_MAX_CHARS: Final = 2_000


class RpcError(Exception):
    """The other side answered with an error, or, raised by a handler, our answer to it."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class ConnectionLost(Exception):
    """The other side is gone; whatever was asked stays unanswered."""


Notified = Callable[[str, dict[str, Any], str], None]
Asked = Callable[[str, dict[str, Any], str], object]
Unreadable = Callable[[str], None]


class Connection:
    """One conversation with one process.

    Args:
        write: sends one line, newline included; may raise ``ConnectionLost``.
        notified: called with method, params and the raw line, in order of arrival.
        asked: answers a request of the other side, at once or by what can be awaited; ``RpcError``
            becomes its error. What it does not know it refuses, for a CLI that waits for an answer
            waits for ever.
        unreadable: called with a line that is no JSON-RPC message.
    """

    def __init__(
        self,
        write: Callable[[bytes], Awaitable[None]],
        *,
        notified: Notified,
        asked: Asked,
        unreadable: Unreadable,
    ) -> None:
        self._write = write
        self._notified = notified
        self._asked = asked
        self._unreadable = unreadable
        self._next_id = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._replies: set[asyncio.Task[None]] = set()
        self._lost: str | None = None

    async def request(
        self, method: str, params: dict[str, Any], *, timeout_s: float | None = REQUEST_TIMEOUT_S
    ) -> Any:
        """Ask, and wait for the result.

        Raises:
            RpcError: the other side refused.
            ConnectionLost: it ended first.
            TimeoutError: ``timeout_s`` passed; None waits as long as the other side lives.
        """
        self._check()
        self._next_id += 1
        number = self._next_id
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            await self._send({"id": number, "method": method, "params": params})
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            del self._waiting[number]
            if answer.done() and not answer.cancelled():
                answer.exception()  # fetched, or asyncio complains about an error nobody saw

    async def notify(self, method: str, params: dict[str, Any] | None = None) -> None:
        """Tell, with no answer. Raises ``ConnectionLost``."""
        self._check()
        await self._send({"method": method, **({} if params is None else {"params": params})})

    def feed(self, raw: bytes) -> None:
        """Take one line that the other side wrote."""
        line = raw.decode("utf-8", errors="replace").strip()
        if not line:
            return
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            self._unreadable(line)
            return
        method = message.get("method")
        if isinstance(method, str):
            given = message.get("params")
            params = given if isinstance(given, dict) else {}
            if "id" in message:
                self._reply(message["id"], method, params, line)
            else:
                self._notified(method, params, line)
        elif "id" in message and ("result" in message or "error" in message):
            self._answered(message)
        else:
            self._unreadable(line)

    def lose(self, reason: str) -> None:
        """The other side is gone: what waits for it fails now, and so does what follows."""
        if self._lost is None:
            self._lost = reason
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionLost(reason))

    def _check(self) -> None:
        if self._lost is not None:
            raise ConnectionLost(self._lost)

    async def _send(self, message: dict[str, Any]) -> None:
        # ASCII on the wire: half a surrogate pair, legal in JSON, has no UTF-8 of its own.
        line = json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":"))
        await self._write(line.encode("ascii") + b"\n")

    def _answered(self, message: dict[str, Any]) -> None:
        number = message["id"]
        # bool is an int, and a list would not even hash.
        known = type(number) is int
        answer = self._waiting.get(number) if known else None
        if answer is None or answer.done():
            _log.warning("an answer to no question: id %.40r", number)
            return
        error = message.get("error")
        if error is None:
            answer.set_result(message.get("result"))
            return
        details = error if isinstance(error, dict) else {}
        code = details.get("code")
        answer.set_exception(
            RpcError(
                code if type(code) is int else INTERNAL_ERROR,
                str(details.get("message", error))[:MESSAGE_MAX_CHARS],
                details.get("data"),
            )
        )

    def _reply(self, number: object, method: str, params: dict[str, Any], line: str) -> None:
        answer: object
        try:
            answer = self._asked(method, params, line)
        except RpcError as error:
            answer = error
        task = asyncio.get_running_loop().create_task(self._send_reply(number, answer))
        self._replies.add(task)
        task.add_done_callback(self._replies.discard)

    async def _send_reply(self, number: object, answer: object) -> None:
        if isinstance(answer, Awaitable):
            try:
                answer = await answer
            except RpcError as error:
                answer = error
        said: dict[str, Any] = {"result": answer}
        if isinstance(answer, RpcError):
            said = {"error": {"code": answer.code, "message": answer.message}}
        try:
            await self._send({"id": number, **said})
        except ConnectionLost:
            _log.debug("gone before our answer")
