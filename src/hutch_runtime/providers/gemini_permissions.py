"""Gemini's requests for permission (ACP's ``session/request_permission``), as questions, and the
answers to them.
"""

from __future__ import annotations

from typing import Any, Final

from hutch_runtime.approvals import Question, Verdict
from hutch_runtime.diffs import unified
from hutch_runtime.providers.gemini_events import tool_call

# By their kinds; the first that is offered. Never one that lasts unless it was asked for: the next
# is asked about, and seen, again.
_KINDS: Final[dict[Verdict, tuple[str, ...]]] = {
    "allow": ("allow_once", "allow_always"),
    "always": ("allow_always", "allow_once"),
    "deny": ("reject_once", "reject_always"),
    "cancel": (),
}


def question(call: dict[str, Any]) -> Question:
    tool_id, kind, name, given = tool_call(call)
    return Question(tool_id, kind, name, given, _diff(call.get("content")))


def answer(options: object, verdict: Verdict) -> dict[str, Any]:
    offered = options if isinstance(options, list) else []
    for kind in _KINDS[verdict]:
        for option in offered:
            if isinstance(option, dict) and option.get("kind") == kind:
                chosen = str(option.get("optionId"))
                return {"outcome": {"outcome": "selected", "optionId": chosen}}
    return {"outcome": {"outcome": "cancelled"}}


def _diff(content: object) -> str | None:
    """Of all files that it would change; None if there is none, or one is too large."""
    parts = []
    for entry in content if isinstance(content, list) else []:
        if not isinstance(entry, dict) or entry.get("type") != "diff":
            continue
        old, new = entry.get("oldText"), entry.get("newText")
        before = old if isinstance(old, str) and (old or _change(entry) != "add") else None
        after = new if isinstance(new, str) and (new or _change(entry) != "delete") else None
        part = unified(str(entry.get("path")), before, after)
        if part is None:
            return None
        parts.append(part)
    return "".join(parts) or None


def _change(entry: dict[str, Any]) -> object:
    """add, modify or delete; a file that is not there comes as one without a text."""
    meta = entry.get("_meta")
    return meta.get("kind") if isinstance(meta, dict) else None
