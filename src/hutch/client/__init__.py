"""Hutch from Python: ``Client(url, key).run("claude", "…")``. The command line is built on it."""

from hutch.client.client import Client
from hutch.client.errors import ApiError, ClientError, Unreachable

__all__ = ["ApiError", "Client", "ClientError", "Unreachable"]
