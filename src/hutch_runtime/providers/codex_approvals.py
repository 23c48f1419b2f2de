"""Codex's requests for approval, as questions, and the answers to them.

Shapes are those of 0.169. A request names the item that is to be carried out, which
``item/started`` has told of before: what a change of files changes stands there alone.
"""

from __future__ import annotations

from typing import Any, Final

from hutch_runtime.approvals import Question, Verdict
from hutch_runtime.diffs import headed, unified
from hutch_runtime.providers.codex_items import ToolItem

_EDIT: Final = "item/fileChange/requestApproval"
METHODS: Final = frozenset({_EDIT, "item/commandExecution/requestApproval"})
# cancel interrupts the turn as well.
_DECISIONS: Final[dict[Verdict, str]] = {
    "allow": "accept",
    "always": "acceptForSession",
    "deny": "decline",
    "cancel": "cancel",
}


def question(method: str, params: dict[str, Any], item: ToolItem | None) -> Question:
    tool_id = _text(params.get("itemId"))
    reason = _text(params.get("reason"))
    why = {"reason": reason} if reason else {}
    given: dict[str, Any] = item.input if item is not None else {}
    if method == _EDIT:
        return Question(tool_id, "edit", "fileChange", {**given, **why}, _diff(given))
    told: dict[str, Any] = {key: params[key] for key in ("command", "cwd") if key in params}
    return Question(tool_id, "shell", "commandExecution", {**given, **told, **why})


def answer(verdict: Verdict) -> dict[str, Any]:
    return {"decision": _DECISIONS[verdict]}


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
        kind = change.get("kind")
        kind = kind if isinstance(kind, dict) else {}
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
