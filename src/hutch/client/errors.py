from __future__ import annotations


class ClientError(Exception):
    """Base of everything that the client raises."""


class Unreachable(ClientError):
    """The service does not answer, or the connection broke."""


class ApiError(ClientError):
    """The service said no. ``code`` is stable; ``hint`` says what to do."""

    def __init__(self, status: int, code: str, message: str, hint: str) -> None:
        super().__init__(f"{message} ({code})")
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
