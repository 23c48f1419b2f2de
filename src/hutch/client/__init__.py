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

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncStream",
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
    "TimedOut",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
]
