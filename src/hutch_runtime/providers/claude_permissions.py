"""Claude Code's requests to use a tool (``can_use_tool``), as questions, and the answers to them.

Shapes are those of 2.1.330: ``tool_name``, ``input``, ``tool_use_id``, and
``permission_suggestions``, which are what a person may allow for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath
from typing import Any, Final

from hutch_runtime.approvals import Question, Verdict
from hutch_runtime.diffs import SIDE_MAX_CHARS, unified
from hutch_runtime.home import Home
from hutch_runtime.providers.base import AgentDied, Ask
from hutch_runtime.providers.claude_tools import tool_kind

_DENIED: Final = (
    "The user was asked for permission, and did not give it. Nothing was done. Go on without it, "
    "or say what you would need."
)


class Asking:
    """The questions of one turn that wait for an answer."""

    def __init__(self, ask: Ask, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        self._ask = ask
        self._send = send
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def ask(self, request_id: object, request: dict[str, Any], asked: Question) -> None:
        if not isinstance(request_id, str) or request_id in self._tasks:
            return
        task = asyncio.get_running_loop().create_task(self._answer(request_id, request, asked))
        self._tasks[request_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(request_id, None))

    def withdraw(self, request_id: object) -> None:
        """The CLI wants no answer to it any more."""
        task = self._tasks.get(request_id) if isinstance(request_id, str) else None
        if task is not None:
            task.cancel()

    def close(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()

    async def _answer(self, request_id: str, request: dict[str, Any], asked: Question) -> None:
        verdict = await self._ask(asked)
        try:
            await self._send(answer(request_id, request, verdict))
        except AgentDied:
            return  # the turn says so


def question(request: dict[str, Any], workspace: Home) -> Question:
    name, given = _str(request.get("tool_name")), _dict(request.get("input"))
    return Question(
        tool_id=_str(request.get("tool_use_id")),
        kind=tool_kind(name),
        name=name,
        input=given,
        diff=_diff(name, given, workspace),
    )


def answer(request_id: object, request: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    said: dict[str, Any]
    if verdict in {"allow", "always"}:
        said = {"behavior": "allow", "updatedInput": _dict(request.get("input"))}
        if verdict == "always" and (lasting := _lasting(request.get("permission_suggestions"))):
            said["updatedPermissions"] = lasting
    else:
        said = {"behavior": "deny", "message": _DENIED, "interrupt": verdict == "cancel"}
    response = {"subtype": "success", "request_id": request_id, "response": said}
    return {"type": "control_response", "response": response}


def _lasting(suggestions: object) -> list[dict[str, Any]]:
    """Of what the CLI suggests, the narrowest: rules for such a command or tool, else that it edits
    without asking. For the session: nothing of it may go into a file.
    """
    offered = suggestions if isinstance(suggestions, list) else []
    known = [one for one in offered if isinstance(one, dict)]
    rules = [one for one in known if one.get("type") == "addRules"]
    edits = [one for one in known if one.get("mode") == "acceptEdits"]
    return [{**one, "destination": "session"} for one in rules or edits]


def _diff(name: str, given: dict[str, Any], workspace: Home) -> str | None:
    """The CLI tells what it wants to put in, and not what is there."""
    path = _str(given.get("file_path"))
    if name == "Write":
        try:
            return unified(path, _read(path, workspace), _str(given.get("content")))
        except (OSError, ValueError):
            return None
    if name != "Edit":
        return None
    old, new = _str(given.get("old_string")), _str(given.get("new_string"))
    try:
        before = _read(path, workspace) or ""
    except (OSError, ValueError):
        before = ""
    if not old or old not in before:
        return unified(path, old, new)  # without what is around it
    return unified(path, before, before.replace(old, new, -1 if given.get("replace_all") else 1))


def _read(path: str, workspace: Home) -> str | None:
    """A file of the workspace; None if there is none. Raises ``OSError`` and ``ValueError`` for
    what cannot be read or compared.
    """
    name = PurePosixPath(path).relative_to(workspace.path)
    if not name.parts or ".." in name.parts:
        raise ValueError
    try:
        content = workspace.read(str(name), SIDE_MAX_CHARS + 1)
    except FileNotFoundError:
        return None
    if len(content) > SIDE_MAX_CHARS:
        raise ValueError
    return content.decode()


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""
