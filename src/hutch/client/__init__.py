"""Hutch from Python: ``Client(url, key).run("claude", "…").text``, and ``AsyncClient``.

``docs/sdk.md`` shows it. The command line is built on it.
"""

from hutch.client.asynchronous import AsyncClient, AsyncStream
from hutch.client.client import Client, Stream
from hutch.client.errors import (
    ApiError,
    ClientError,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    RateLimited,
    RunFailed,
    TimedOut,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from hutch.client.run_options import Attachment
from hutch.client.terminal import Terminal
from hutch.client.terminals import AsyncTerminal

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncStream",
    "AsyncTerminal",
    "Attachment",
    "Client",
    "ClientError",
    "Conflict",
    "Forbidden",
    "Invalid",
    "NotFound",
    "RateLimited",
    "RunFailed",
    "Stream",
    "Terminal",
    "TimedOut",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
]
