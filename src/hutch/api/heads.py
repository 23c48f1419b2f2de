"""Bound what comes before a body: the request line and the headers.

The parser keeps whatever it is sent, a header without an end included.
"""

from __future__ import annotations

import json
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hutch.api.errors import body
from hutch.api.guard import ALWAYS
from hutch_runtime.protocol import KIB

HEAD_MAX_BYTES: Final = 32 * KIB  # the longest that we ask for: a key, an id, a ticket
HEADERS_MAX: Final = 100


class BoundedHeads(HttpToolsProtocol):
    """Answers 431 and closes the connection."""

    _before = 0  # bytes of a head that is not whole yet, but for those of its first piece
    _size = 0
    _in_head = False
    _began = False  # in the piece that is being parsed

    def data_received(self, data: bytes) -> None:
        self._began = False
        super().data_received(data)
        # A first piece may hold the end of a body as well, and is bounded by what is read at once.
        if self._in_head and not self._began and not self.transport.is_closing():
            self._before += len(data)
            if self._before > HEAD_MAX_BYTES:
                self._refuse()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._before = self._size = 0
        self._in_head = self._began = True

    def on_url(self, url: bytes) -> None:
        self._size += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value) + 4
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._size > HEAD_MAX_BYTES or len(self.headers) > HEADERS_MAX:
            self._refuse()
            raise _TooLarge
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What the parser did not take; after a refusal of ours it is asked to send one more."""
        if not self.transport.is_closing():
            self._answer(
                b"400 Bad Request", body("invalid_request", msg, "See /docs for the requests.")
            )

    def _refuse(self) -> None:
        told = body(
            "request_too_large",
            f"The request line and headers have more than {HEAD_MAX_BYTES} bytes, or there are "
            f"more than {HEADERS_MAX} headers.",
            "Send the headers that /docs names.",
        )
        self._answer(b"431 Request Header Fields Too Large", told)

    def _answer(self, status: bytes, told: dict[str, Any]) -> None:
        content = json.dumps(told).encode()
        length = b"content-length: " + str(len(content)).encode()
        lines = (
            b"HTTP/1.1 " + status,
            b"content-type: application/json",
            length,
            *(name + b": " + value for name, value in ALWAYS),
            b"connection: close",
        )
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + content)
        self.transport.close()


class _TooLarge(Exception):
    """Ends the parser's work on a request that has been answered."""
