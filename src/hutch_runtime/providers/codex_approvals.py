"""Codex's requests for approval, as questions, and the answers to them.

Shapes are those of 0.169. A request names the item that is to be carried out, which
``item/started`` has told of before: what a change of files changes stands there alone. Whether a
tool of an MCP server may be used it asks as if the server wanted a form filled in (an elicitation),
and names no item.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hutch_runtime.approvals import Question, Verdict
from hutch_runtime.diffs import headed, unified
from hutch_runtime.providers.codex_items import ToolItem

_COMMAND: Final = "item/commandExecution/requestApproval"
_EDIT: Final = "item/fileChange/requestApproval"
_FORM: Final = "mcpServer/elicitation/request"
# cancel interrupts the turn as well.
_DECISIONS: Final[dict[Verdict, str]] = {
    "allow": "accept",
    "always": "acceptForSession",
    "deny": "decline",
    "cancel": "cancel",
}


def is_approval(method: str, params: dict[str, Any]) -> bool:
    if method == _FORM:
        return _dict(params.get("_meta")).get("codex_approval_kind") == "mcp_tool_call"
    return method in {_COMMAND, _EDIT}


def question(method: str, params: dict[str, Any], begun: Mapping[str, ToolItem]) -> Question:
    """``begun``: the turn's tool calls that have not ended, by their ids."""
    if method == _FORM:
        return _of_form(params, begun)
    tool_id, reason = _text(params.get("itemId")), _text(params.get("reason"))
    item = begun.get(tool_id)
    why = {"reason": reason} if reason else {}
    given: dict[str, Any] = item.input if item is not None else {}
    if method == _EDIT:
        return Question(tool_id, "edit", "fileChange", {**given, **why}, _diff(given))
    told: dict[str, Any] = {key: params[key] for key in ("command", "cwd") if key in params}
    return Question(tool_id, "shell", "commandExecution", {**given, **told, **why})


def answer(method: str, params: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    if method != _FORM:
        return {"decision": _DECISIONS[verdict]}
    if verdict not in {"allow", "always"}:
        action = "cancel" if verdict == "cancel" else "decline"
        return {"action": action, "content": None, "_meta": None}
    offered = _dict(params.get("_meta")).get("persist")
    lasts = verdict == "always" and isinstance(offered, list) and "session" in offered
    return {"action": "accept", "content": {}, "_meta": {"persist": "session"} if lasts else None}


def _of_form(params: dict[str, Any], begun: Mapping[str, ToolItem]) -> Question:
    meta = _dict(params.get("_meta"))
    name = f"{_text(params.get('serverName'))}.{_text(meta.get('tool_name'))}"
    tool_id = next((key for key, item in begun.items() if item.name == name), "")
    return Question(tool_id, "mcp", name, _dict(meta.get("tool_params")))


def _diff(given: dict[str, Any]) -> str | None:
    """Codex gives hunks for a file that it updates, and the content of one that it makes or
    removes.
    """
    changes = given.get("changes")
    parts = []
    for change in changes if isinstance(changes, list) else []:
        if not isinstance(change, dict):
            return None
        path, text = _text(change.get("path")), _text(change.get("diff"))
        kind = _dict(change.get("kind"))
        match kind.get("type"):
            case "add":
                part = unified(path, None, text)
            case "delete":
                part = unified(path, text, None)
            case _:
                moved = _text(kind.get("move_path"))
                part = headed(moved or path, text, before=path)
        if part is None:
            return None
        parts.append(part)
    return "".join(parts) or None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
