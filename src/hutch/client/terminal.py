"""A terminal for code that waits: the other one, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from hutch.client.asynchronous import AsyncClient
from hutch.client.options import Options
from hutch.client.terminals import Exit

T = TypeVar("T")


class Terminal:
    """As ``AsyncTerminal``. May be used by several threads: one that types, one that reads."""

    def __init__(
        self,
        options: Options,
        ca: str | Path | ssl.SSLContext | None,
        *,
        command: Sequence[str] | None,
        terminal_id: str | None,
        after: int,
        tty: bool,
        rows: int,
        columns: int,
        term: str,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._client = AsyncClient(
            options.url,
            options.key,
            user_id=options.user_id,
            timeout_s=options.timeout_s,
            retry_for_s=options.retry_for_s,
            ca=ca,
        )
        self._terminal = self._client.terminal(
            command,
            terminal_id=terminal_id,
            after=after,
            tty=tty,
            rows=rows,
            columns=columns,
            term=term,
        )

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._wait(self._terminal.__aenter__())
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._wait(self._terminal.__aexit__())
        finally:
            self._close()

    @property
    def id(self) -> str:
        return self._terminal.id

    @property
    def exit(self) -> Exit | None:
        """None until its program has ended, and all output was read."""
        return self._terminal.exit

    @property
    def offset(self) -> int:
        return self._terminal.offset

    @property
    def lost(self) -> int:
        return self._terminal.lost

    def detach(self) -> None:
        self._terminal.detach()

    def send(self, data: bytes) -> None:
        self._wait(self._terminal.send(data))

    def resize(self, rows: int, columns: int) -> None:
        self._wait(self._terminal.resize(rows, columns))

    def end_input(self) -> None:
        self._wait(self._terminal.end_input())

    def read(self) -> bytes:
        return self._wait(self._terminal.read())

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read():
            yield data

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _close(self) -> None:
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
