"""Claude Code's tools, in the words of the protocol."""

from __future__ import annotations

from typing import Any, Final

from hutch_runtime.protocol import ToolKind

PLAN_TOOL: Final = "TodoWrite"

_KINDS: Final[dict[str, ToolKind]] = {
    "Bash": "shell",
    "BashOutput": "shell",
    "KillShell": "shell",
    "Monitor": "shell",
    "Read": "read",
    "NotebookRead": "read",
    "Edit": "edit",
    "MultiEdit": "edit",
    "NotebookEdit": "edit",
    "Write": "edit",
    "Glob": "search",
    "Grep": "search",
    "LS": "search",
    "ToolSearch": "search",
    "WebSearch": "search",
    "web_search": "search",
    "WebFetch": "fetch",
    "web_fetch": "fetch",
}


def tool_kind(name: str) -> ToolKind:
    return "mcp" if name.startswith("mcp__") else _KINDS.get(name, "other")


def plan_items(tool_input: dict[str, Any]) -> list[dict[str, str]]:
    """``TodoWrite``'s list as the items of a ``plan`` event."""
    todos = tool_input.get("todos")
    items = []
    for todo in todos if isinstance(todos, list) else []:
        if isinstance(todo, dict):
            status = str(todo.get("status"))
            known = status in {"pending", "in_progress", "completed"}
            text = str(todo.get("content", ""))
            items.append({"text": text, "status": status if known else "pending"})
    return items


def result_text(content: object) -> str:
    """A tool result's content, which is a text or a list of blocks."""
    if isinstance(content, str):
        return content
    parts = []
    for block in content if isinstance(content, list) else []:
        if isinstance(block, dict):
            text = block.get("text")
            parts.append(text if isinstance(text, str) else f"[{block.get('type', 'content')}]")
    return "\n".join(parts)
