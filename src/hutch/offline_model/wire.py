"""What each protocol's module provides, and what they share in giving an answer its shape."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

from hutch.offline_model.behaviour import Answer, Shell, WriteFile
from hutch.offline_model.conversation import Conversation


@dataclass(frozen=True, slots=True)
class Script:
    """A streamed answer as server-sent events; the pauses go between the ``pieces``."""

    opening: tuple[bytes, ...]
    pieces: tuple[bytes, ...]
    closing: tuple[bytes, ...]


class Wire(Protocol):
    """One provider's protocol: reading its requests, writing its answers."""

    def parse(self, body: Mapping[str, Any], *, model: str, stream: bool) -> Conversation:
        """``model`` and ``stream`` are what the path said; the body may say it instead.

        Raises ``Malformed``.
        """
        ...

    def whole(self, conversation: Conversation, answer: Answer) -> dict[str, Any]: ...

    def script(self, conversation: Conversation, answer: Answer) -> Script: ...

    def error(self, status: int, message: str) -> tuple[int, dict[str, Any]]:
        """The status that this provider really uses, and its body."""
        ...

    def count(self, tokens: int) -> dict[str, Any]:
        """The answer to "how many tokens is this?"."""
        ...


def new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


def named_event(event: Mapping[str, Any]) -> bytes:
    """A server-sent event whose name is the ``type`` in its data."""
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def unnamed_event(data: Mapping[str, Any]) -> bytes:
    # The @google/genai SDK splits on CRLF or LF pairs alike.
    return f"data: {json.dumps(data)}\n\n".encode()


def shell_command(action: Shell | WriteFile) -> str:
    """The action as the shell text that a model would write: this is model output, run only by a
    CLI in its sandbox; Hutch itself runs argv lists.
    """
    if isinstance(action, Shell):
        return action.command
    parent = shlex.quote(str(PurePosixPath(action.path).parent))
    return (
        f"mkdir -p {parent} && printf %s {shlex.quote(action.content)} > {shlex.quote(action.path)}"
    )


def no_tool(offered: Iterable[str]) -> str:
    names = ", ".join(sorted(offered)) or "none"
    return f"Hutch offline model: no tool that could do this was offered (offered: {names})"
