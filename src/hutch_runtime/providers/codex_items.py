"""Codex's thread items that are tool calls, as kind, name, input and result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hutch_runtime.protocol import ToolKind

_KINDS: Final[dict[str, ToolKind]] = {
    "collabAgentToolCall": "other",
    "commandExecution": "shell",
    "dynamicToolCall": "other",
    "fileChange": "edit",
    "imageGeneration": "other",
    "imageView": "read",
    "mcpToolCall": "mcp",
    "sleep": "other",
    "webSearch": "search",
}


@dataclass(frozen=True, slots=True)
class ToolItem:
    """A tool call as far as it has come; ``ok`` and ``output`` mean nothing before its end."""

    kind: ToolKind
    name: str
    input: dict[str, Any]
    ok: bool
    output: str


def read_tool(item: dict[str, Any]) -> ToolItem | None:
    """A thread item as a tool call; None if it is not one, or of an unknown type."""
    kind = item.get("type")
    if not isinstance(kind, str) or kind not in _KINDS:
        return None
    ok = item.get("status", "completed") == "completed"
    name, given, output = kind, {}, ""
    match kind:
        case "commandExecution":
            given = {key: item.get(key) for key in ("command", "cwd")}
            exit_code = item.get("exitCode")
            ok = ok and (exit_code is None or exit_code == 0)
            output = item.get("aggregatedOutput") or ""
        case "fileChange":
            given = {"changes": item.get("changes")}
        case "mcpToolCall":
            name = f"{item.get('server')}.{item.get('tool')}"
            given = _arguments(item)
            error = item.get("error")
            ok = ok and error is None
            output = _text_of(item.get("result"), "content")
            if isinstance(error, dict):
                output = error.get("message") or ""
        case "dynamicToolCall":
            name = str(item.get("tool"))
            given = _arguments(item)
            ok = ok and item.get("success") is not False
            output = _text_of(item, "contentItems")
        case "webSearch":
            given = {key: item.get(key) for key in ("query", "action")}
        case "imageView":
            given = {"path": item.get("path")}
        case "collabAgentToolCall":
            name = str(item.get("tool"))
            given = {key: item.get(key) for key in ("prompt", "model")}
    return ToolItem(_KINDS[kind], name, given, ok, output if isinstance(output, str) else "")


def _arguments(item: dict[str, Any]) -> dict[str, Any]:
    arguments = item.get("arguments")
    return arguments if isinstance(arguments, dict) else {"arguments": arguments}


def _text_of(holder: object, key: str) -> str:
    parts = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(parts, list):
        return ""
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))
