"""A CLI process that speaks JSON-RPC and holds many sessions: Codex's and Gemini's shape.

``RpcProcess`` is one such process; ``SharedProcess`` starts it when it is first needed and again
after it died; ``RpcAgent`` is what the two providers' agents have in common.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, Protocol

from hutch_runtime.jsonrpc import Asked, Connection, ConnectionLost, RpcError
from hutch_runtime.process import Process, ProcessGone
from hutch_runtime.protocol import LINE_MAX_BYTES
from hutch_runtime.providers.base import AgentStartFailed, Setup

_log = logging.getLogger(__name__)

# Gemini needs 1.3 s here, and several times that in gVisor on a busy machine.
START_TIMEOUT_S: Final = 60.0
# For letting go of a session; whoever waits for it has nothing to gain from a slow one.
FAREWELL_TIMEOUT_S: Final = 2.0
# Its exit and the end of its standard error come by ways of their own.
_LAST_WORDS_S: Final = 0.5
_SAID_CHARS: Final = 500


class Listener(Protocol):
    """A session's ear."""

    def heard(self, method: str, params: dict[str, Any], line: str) -> None: ...

    def unreadable(self, line: str) -> None: ...

    def line_dropped(self, size: int) -> None: ...

    def died(self, reason: str) -> None: ...


class RpcProcess:
    """One process and the sessions in it.

    A notification goes to the session that its ``session_key`` names, one that names none to all,
    and one that names a session which nobody listens to, to nobody.
    """

    def __init__(self, session_key: str, asked: Asked) -> None:
        self._session_key = session_key
        self._process: Process | None = None
        self._listeners: dict[str, Listener] = {}
        self.connection = Connection(
            self._write,
            notified=self._notified,
            asked=asked,
            unreadable=self._unreadable,
        )

    async def start(
        self, setup: Setup, arguments: tuple[str, ...], environment: Mapping[str, str]
    ) -> None:
        """Start it. Raises ``OSError``."""
        self._process = await Process.start(
            [*setup.argv, *arguments],
            cwd=setup.workspace,
            environment={**setup.environment, **environment},
            identity=setup.identity,
            on_line=self.connection.feed,
            on_long_line=self._line_dropped,
            on_exit=self._exited,
        )

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.alive else None

    async def last_words(self, reason: str) -> str:
        """Why it ended, with the end of its standard error; waits for both, but not for long."""
        if self._process is None:
            return reason
        with contextlib.suppress(TimeoutError):
            reason = await asyncio.wait_for(self._process.wait(), _LAST_WORDS_S)
            if not self._process.stderr_tail:
                await asyncio.sleep(_LAST_WORDS_S / 10)
        said = self._process.stderr_tail[-_SAID_CHARS:]
        return f"{reason}; it said: {said}" if said else reason

    def listen(self, session: str, listener: Listener) -> None:
        self._listeners[session] = listener

    def unlisten(self, session: str, listener: Listener) -> None:
        if self._listeners.get(session) is listener:
            del self._listeners[session]

    def listener(self, session: object) -> Listener | None:
        return self._listeners.get(session) if isinstance(session, str) else None

    async def close(self) -> None:
        if self._process is not None:
            await self._process.close()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    async def _write(self, line: bytes) -> None:
        if self._process is None:
            raise ConnectionLost("not started")
        try:
            await self._process.write(line)
        except ProcessGone as error:
            raise ConnectionLost(str(error)) from error

    def _notified(self, method: str, params: dict[str, Any], line: str) -> None:
        session = params.get(self._session_key)
        if isinstance(session, str):
            listener = self._listeners.get(session)
            if listener is not None:
                listener.heard(method, params, line)
        else:
            for each in list(self._listeners.values()):
                each.heard(method, params, line)

    def _unreadable(self, line: str) -> None:
        for each in list(self._listeners.values()):
            each.unreadable(line)

    def _line_dropped(self, size: int) -> None:
        _log.warning("a line of %d bytes was dropped, the limit is %d", size, LINE_MAX_BYTES)
        for each in list(self._listeners.values()):
            each.line_dropped(size)

    def _exited(self, reason: str) -> None:
        self.connection.lose(reason)
        for each in list(self._listeners.values()):
            each.died(reason)
        self._listeners.clear()


class SharedProcess:
    """The one process of a driver, started when needed, and again when it died.

    Args:
        begin: makes and starts the process.
        greet: speaks its opening words; the process is ready when it returns.
    """

    def __init__(
        self,
        begin: Callable[[], Awaitable[RpcProcess]],
        greet: Callable[[RpcProcess], Awaitable[None]],
    ) -> None:
        self._begin = begin
        self._greet = greet
        self._process: RpcProcess | None = None
        self._coming: RpcProcess | None = None  # not ready yet
        self._starting = asyncio.Lock()
        self._closed = False

    async def get(self) -> RpcProcess:
        """The running process. Raises ``AgentStartFailed``."""
        async with self._starting:
            if self._closed:
                raise AgentStartFailed("the runtime is shutting down")
            if self._process is None or not self._process.alive:
                self._process = await self._start()
            return self._process

    async def rest(self) -> None:
        """End the process; ``get`` starts another."""
        async with self._starting:
            if self._process is not None:
                await self._process.close()

    async def close(self) -> None:
        """Also one that is still starting: an MCP server that hangs would hold it up."""
        self._closed = True
        if self._coming is not None:
            self._coming.kill()
        await self.rest()

    async def _start(self) -> RpcProcess:
        try:
            process = await self._begin()
        except OSError as error:
            raise AgentStartFailed(f"could not be started: {error.strerror or error}") from error
        ready = False
        self._coming = process
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._greet(process)
            ready = True
        except TimeoutError as error:
            raise AgentStartFailed(f"not ready after {START_TIMEOUT_S:.0f} s") from error
        except ConnectionLost as error:
            reason = await process.last_words(str(error))
            raise AgentStartFailed(f"ended at its start: {reason}") from error
        except RpcError as error:
            raise AgentStartFailed(f"refused to start: {error.message}") from error
        finally:
            self._coming = None
            if not ready:
                process.kill()
        return process


class RpcAgent:
    """A session in a shared process, without what its provider's turns look like."""

    def __init__(
        self, process: RpcProcess, session: str, resumed: Literal["resumed", "replayed"] | None
    ) -> None:
        self._process = process
        self._session = session
        self._resumed = resumed
        self._ended = asyncio.Event()
        self._reason = ""

    @property
    def session(self) -> str:
        return self._session

    @property
    def resumed(self) -> Literal["resumed", "replayed"] | None:
        return self._resumed

    @property
    def alive(self) -> bool:
        return not self._ended.is_set() and self._process.alive

    @property
    def pid(self) -> int | None:
        return self._process.pid

    async def gone(self) -> str:
        await self._ended.wait()
        return self._reason

    def end(self, reason: str) -> bool:
        """Mark it dead; False if it was already."""
        if self._ended.is_set():
            return False
        self._reason = reason
        self._ended.set()
        return True


async def new_session(process: RpcProcess, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Ask for a session, a new one or an old one.

    Raises:
        RpcError: the CLI refused, with words of its own.
        AgentStartFailed: it died, hangs (it is killed then), or answered nonsense.
    """
    try:
        result = await process.connection.request(method, params, timeout_s=START_TIMEOUT_S)
    except ConnectionLost as error:
        raise AgentStartFailed(await process.last_words(str(error))) from error
    except TimeoutError as error:
        process.kill()
        raise AgentStartFailed(f"no session after {START_TIMEOUT_S:.0f} s") from error
    if not isinstance(result, dict):
        raise AgentStartFailed(f"{method} was answered with no object")
    return result
