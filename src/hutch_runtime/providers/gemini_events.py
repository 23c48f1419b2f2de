"""What ``gemini --acp`` 0.61 says during a turn, in the words of ``hutch_runtime.protocol``.

Pure translation of the Agent Client Protocol's ``session/update``. What Gemini does not tell over
ACP cannot be here: a tool's arguments (only a title and the files that it touches), a shell
command's output (``tool.finished`` has ""), cached tokens (0), and its retries.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from hutch_runtime.protocol import StopReason, ToolKind

Emit = Callable[..., object]

_SILENT: Final = frozenset({
    "available_commands_update",
    "config_option_update",
    "current_mode_update",
    "session_info_update",
    "usage_update",
    "user_message_chunk",
})  # fmt: skip
_KINDS: Final[dict[str, ToolKind]] = {
    "delete": "edit",
    "edit": "edit",
    "execute": "shell",
    "fetch": "fetch",
    "move": "edit",
    "other": "other",
    "read": "read",
    "search": "search",
    "switch_mode": "other",
    "think": "other",
}
_STOPS: Final[dict[str, StopReason]] = {
    "cancelled": "cancelled",
    "end_turn": "end_turn",
    "max_tokens": "max_turns",  # the context is full: like the turn limit, a limit and no failure
    "max_turn_requests": "max_turns",
    "refusal": "refusal",
}
_PLAN_STATUSES: Final = frozenset({"pending", "in_progress", "completed"})
# "run_shell_command__run_shell_command_1795438589016_0": the tool's name is not said elsewhere.
_TOOL_NAME: Final = re.compile(r"([A-Za-z0-9_.:-]{1,128}?)(?:__|-\d{13}-)")
_MCP_PREFIX: Final = "mcp_"


class TurnTranslator:
    """Turns the updates of one prompt into events, by calling ``emit(type, **fields)``."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._block: list[str] = []
        self._open: set[str] = set()
        self.text = ""  # the last block of the answer

    def update(self, update: dict[str, Any], line: str) -> None:
        """The ``update`` of one ``session/update``."""
        match _text(update.get("sessionUpdate")):
            case "agent_message_chunk":
                text = _chunk(update)
                if text:
                    self._block.append(text)
                    self._emit("text.delta", text=text)
            case "agent_thought_chunk":
                text = _chunk(update)
                if text:
                    self._emit("reasoning.delta", text=text)
            case "tool_call" | "tool_call_update":
                self.tool(update)
            case "plan":
                self._plan(update)
            case name if name not in _SILENT:
                self._emit("unparsed", line=line)

    def tool(self, call: dict[str, Any]) -> None:
        """A tool call at any of its stages; also the one that a permission request speaks of."""
        tool_id = _text(call.get("toolCallId"))
        status = _text(call.get("status"))
        if not tool_id:
            return
        if tool_id not in self._open:
            self._end_block()
            self._open.add(tool_id)
            _, kind, name, given = tool_call(call)
            self._emit("tool.started", tool_id=tool_id, kind=kind, name=name, input=given)
            if status not in {"completed", "failed"}:
                return  # the content of a start is a description, not output
        output = _content(call)
        if status in {"completed", "failed"}:
            self._open.discard(tool_id)
            ok = status == "completed"
            self._emit("tool.finished", tool_id=tool_id, ok=ok, output=output)
        elif output:
            self._emit("tool.output", tool_id=tool_id, text=output)

    def denied(self, call: dict[str, Any]) -> None:
        """Ends a tool call that nobody allowed: Gemini says nothing more of it."""
        tool_id = _text(call.get("toolCallId"))
        if tool_id in self._open:
            self._open.discard(tool_id)
            self._emit("tool.finished", tool_id=tool_id, ok=False, output="")

    def usage(self, result: dict[str, Any]) -> None:
        """The tokens in the result of ``session/prompt``: of this turn, all its model calls."""
        meta = _dict(_dict(_dict(result.get("_meta")).get("quota")).get("token_count"))
        tokens = [_count(meta.get("input_tokens")), _count(meta.get("output_tokens"))]
        if any(tokens):
            self._emit(
                "usage",
                input_tokens=tokens[0],
                output_tokens=tokens[1],
                cached_tokens=0,
                cost_usd=None,
            )

    def close(self) -> None:
        """Ends what the turn left open: Gemini says nothing of a tool that a cancel stopped."""
        for tool_id in sorted(self._open):
            self._emit("tool.finished", tool_id=tool_id, ok=False, output="")
        self._open.clear()
        self._end_block()

    def _end_block(self) -> None:
        if self._block:
            self.text = "".join(self._block)
            self._emit("text", text=self.text)
            self._block.clear()

    def _plan(self, update: dict[str, Any]) -> None:
        entries = [entry for entry in _list(update.get("entries")) if isinstance(entry, dict)]
        items = []
        for entry in entries:
            status = _text(entry.get("status"))
            status = status if status in _PLAN_STATUSES else "pending"
            items.append({"text": _text(entry.get("content")), "status": status})
        self._emit("plan", items=items)


def stop_reason(result: dict[str, Any]) -> StopReason | None:
    """The result's ``stopReason``; None if it is one that this version does not know."""
    return _STOPS.get(_text(result.get("stopReason")))


def tool_call(call: dict[str, Any]) -> tuple[str, ToolKind, str, dict[str, Any]]:
    """Its id, kind, name and input, as far as Gemini tells them."""
    tool_id = _text(call.get("toolCallId"))
    name, kind = _name(tool_id), _KINDS.get(_text(call.get("kind")), "other")
    if name.startswith(_MCP_PREFIX):
        kind = "mcp"
    return tool_id, kind, name, _input(call, kind)


def _name(tool_id: str) -> str:
    found = _TOOL_NAME.match(tool_id)
    return found[1] if found else "tool"


def _input(call: dict[str, Any], kind: ToolKind) -> dict[str, Any]:
    """What Gemini tells of the arguments: its raw input if it has any, else the title and files."""
    raw = call.get("rawInput")
    if isinstance(raw, dict):
        return raw
    title = _text(call.get("title"))
    given: dict[str, Any] = {"command": title} if kind == "shell" else {"title": title}
    paths = [
        _text(place.get("path"))
        for place in _list(call.get("locations"))
        if isinstance(place, dict)
    ]
    return {**given, "paths": paths} if paths else given


def _content(call: dict[str, Any]) -> str:
    lines = []
    for part in _list(call.get("content")):
        entry = _dict(part)
        if entry.get("type") == "diff":
            change = _text(_dict(entry.get("_meta")).get("kind"))
            lines.append(f"{change} {_text(entry.get('path'))}")
        else:
            lines.append(_text(_dict(entry.get("content")).get("text")))
    return "\n".join(line.strip() for line in lines if line)


def _chunk(update: dict[str, Any]) -> str:
    return _text(_dict(update.get("content")).get("text"))


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else 0


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
