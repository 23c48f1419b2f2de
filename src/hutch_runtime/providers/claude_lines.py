"""What Claude Code prints in stream-json, as events: a pure translation of one turn's lines.

Line types are those of 2.1.330. What is known to matter to nobody is listed; what is not known is
reported as ``unparsed``.
"""

from __future__ import annotations

import json
from typing import Any, Final

from hutch_runtime.protocol import ErrorCode, status_code
from hutch_runtime.providers.base import Outcome, RunError, Turn
from hutch_runtime.providers.claude_tools import (
    PLAN_TOOL,
    plan_items,
    result_text,
    tool_kind,
)

_SILENT_TYPES: Final = frozenset(
    {
        "auth_status",
        "control_cancel_request",
        "control_response",  # the agent's, not the turn's
        "conversation_reset",
        "keep_alive",
        "prompt_suggestion",
        "rate_limit_event",
        "tool_progress",
        "tool_use_summary",
    }
)
_SILENT_SUBTYPES: Final = frozenset(
    {
        "background_tasks_changed",
        "compact_boundary",
        "control_request_progress",
        "files_persisted",
        "hook_progress",
        "hook_response",
        "hook_started",
        "informational",
        "init",
        "instruction_size_warning",
        "local_command",
        "local_command_output",
        "memory_recall",
        "memory_saved",
        "model_fallback",
        "model_refusal_fallback",
        "model_refusal_no_fallback",
        "notification",
        "permission_denied",
        "post_turn_summary",
        "session_metadata",
        "session_state_changed",
        "session_title_changed",
        "status",
        "task_notification",
        "task_progress",
        "task_started",
        "task_summary",
        "task_updated",
        "thinking_tokens",
        "turn_duration",
        "turn_starting",
    }
)
_SILENT_STREAM_EVENTS: Final = frozenset(
    {
        "content_block_start",
        "content_block_stop",
        "error",  # comes again as the result
        "message_delta",
        "message_start",
        "message_stop",
        "ping",
    }
)
_SILENT_DELTAS: Final = frozenset({"citations_delta", "input_json_delta", "signature_delta"})
# Thinking has come as deltas.
_SILENT_BLOCKS: Final = frozenset({"redacted_thinking", "thinking"})

_ERRORS: Final[dict[str, ErrorCode]] = {
    "authentication_failed": "provider_auth",
    "billing_error": "provider_auth",
    "invalid_request": "provider_bad_request",
    "model_not_found": "model_not_found",
    "oauth_org_not_allowed": "provider_auth",
    "overloaded": "provider_overloaded",
    "rate_limit": "provider_rate_limited",
}


class ClaudeTurn:
    """Takes one turn's lines; ``feed`` returns the outcome with the last of them."""

    def __init__(self, turn: Turn, *, structured: bool = False) -> None:
        """``structured``: the answer is to be JSON of a schema."""
        self._turn = turn
        self._structured = structured
        self._error = ""  # the CLI's word for what went wrong
        self._last_text = ""
        self._plans: set[str] = set()  # tool ids whose result says nothing

    def feed(self, line: dict[str, Any], *, cancelled: bool) -> Outcome | None:
        match line.get("type"):
            case "stream_event":
                self._stream_event(line)
            case "assistant":
                self._assistant(line)
            case "user":
                self._user(line)
            case "system":
                self._system(line)
            case "result":
                self._usage(line)
                return self._outcome(line, cancelled=cancelled)
            case kind if _str(kind) not in _SILENT_TYPES:
                self.unparsed(line)
        return None

    def unparsed(self, line: object) -> None:
        text = line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)
        self._turn.emit("unparsed", line=text)

    def _stream_event(self, line: dict[str, Any]) -> None:
        event = _dict(line.get("event"))
        kind = event.get("type")
        if kind == "content_block_delta":
            delta = _dict(event.get("delta"))
            # A subagent's words are not the answer; what it does shows as its tool calls.
            mine = line.get("parent_tool_use_id") is None
            match delta.get("type"):
                case "text_delta":
                    if mine:
                        self._turn.emit("text.delta", text=_str(delta.get("text")))
                case "thinking_delta":
                    if mine:
                        self._turn.emit("reasoning.delta", text=_str(delta.get("thinking")))
                case other if _str(other) not in _SILENT_DELTAS:
                    self.unparsed(line)
        elif _str(kind) not in _SILENT_STREAM_EVENTS:
            self.unparsed(line)

    def _assistant(self, line: dict[str, Any]) -> None:
        if error := _str(line.get("error")):
            self._error = error  # its text is the CLI's own, and comes again in the result
            return
        content = _dict(line.get("message")).get("content")
        for block in content if isinstance(content, list) else []:
            self._block(_dict(block), line)

    def _block(self, block: dict[str, Any], line: dict[str, Any]) -> None:
        match block.get("type"):
            case "text":
                if line.get("parent_tool_use_id") is None:
                    self._last_text = _str(block.get("text"))
                    self._turn.emit("text", text=self._last_text)
            case "tool_use" | "server_tool_use" | "mcp_tool_use":
                self._tool_started(block)
            case kind if isinstance(kind, str) and kind.endswith("_tool_result"):
                self._tool_finished(block)
            case kind if _str(kind) not in _SILENT_BLOCKS:
                self.unparsed(line)

    def _user(self, line: dict[str, Any]) -> None:
        content = _dict(line.get("message")).get("content")
        for block in content if isinstance(content, list) else []:
            # The other kinds are what the CLI told the model in the user's name.
            if _dict(block).get("type") == "tool_result":
                self._tool_finished(block)

    def _tool_started(self, block: dict[str, Any]) -> None:
        tool_id, name = _str(block.get("id")), _str(block.get("name"))
        tool_input = _dict(block.get("input"))
        if name == PLAN_TOOL:
            self._plans.add(tool_id)
            self._turn.emit("plan", items=plan_items(tool_input))
            return
        kind = "mcp" if block.get("type") == "mcp_tool_use" else tool_kind(name)
        self._turn.emit("tool.started", tool_id=tool_id, kind=kind, name=name, input=tool_input)

    def _tool_finished(self, block: dict[str, Any]) -> None:
        tool_id = _str(block.get("tool_use_id"))
        if tool_id not in self._plans:
            ok = block.get("is_error") is not True
            output = result_text(block.get("content"))
            self._turn.emit("tool.finished", tool_id=tool_id, ok=ok, output=output)

    def _system(self, line: dict[str, Any]) -> None:
        subtype = line.get("subtype")
        if subtype == "api_retry":
            status = _count(line.get("error_status"))
            self._turn.emit(
                "retrying",
                attempt=_count(line.get("attempt")) or 0,
                delay_ms=_count(line.get("retry_delay_ms")),
                status=status,
                code=self._code(status, _str(line.get("error"))),
            )
        elif _str(subtype) not in _SILENT_SUBTYPES:
            self.unparsed(line)

    def _usage(self, line: dict[str, Any]) -> None:
        """What this turn cost, side calls and subagents included. ``total_cost_usd`` would be the
        whole process's, and ``usage`` leaves out a turn that was interrupted.
        """
        models = [_dict(used) for used in _dict(line.get("model_usage_since_last_result")).values()]
        if not models:
            return

        def total(name: str) -> int:
            return sum(_count(used.get(name)) or 0 for used in models)

        costs = [used.get("costUSD") for used in models]
        cached = total("cacheReadInputTokens")
        self._turn.emit(
            "usage",
            input_tokens=total("inputTokens") + total("cacheCreationInputTokens") + cached,
            output_tokens=total("outputTokens"),
            cached_tokens=cached,
            cost_usd=sum(cost for cost in costs if isinstance(cost, int | float)),
        )

    def _outcome(self, line: dict[str, Any], *, cancelled: bool) -> Outcome:
        subtype = line.get("subtype")
        aborted = _str(line.get("terminal_reason")).startswith("aborted")
        if cancelled and (aborted or line.get("is_error") is True):
            return Outcome("cancelled", text=self._last_text)
        if subtype == "error_max_turns":
            return Outcome("max_turns", text=self._last_text)
        if subtype == "error_max_budget_usd":
            return Outcome("max_cost", text=self._last_text)
        if subtype == "error_max_structured_output_retries":
            return Outcome("error", RunError("output_invalid", _message(line)), self._last_text)
        # A failed turn says subtype "success" too.
        if line.get("is_error") is True or subtype != "success":
            status = _count(line.get("api_error_status"))
            code = self._code(status, self._error, _str(line.get("terminal_reason")))
            return Outcome("error", RunError(code, _message(line)), self._last_text)
        text = self._structure(line) if self._structured else _str(line.get("result"))
        text = text or self._last_text
        return Outcome("refusal" if line.get("stop_reason") == "refusal" else "end_turn", text=text)

    def _structure(self, line: dict[str, Any]) -> str:
        """What the model has handed in by the tool for it; "" if nothing."""
        value = line.get("structured_output")
        if value is None:
            return ""
        text = json.dumps(value, ensure_ascii=False)
        self._turn.emit("text", text=text)
        return text

    @staticmethod
    def _code(status: int | None, error: str, terminal_reason: str = "api_error") -> ErrorCode:
        if status is not None:
            return status_code(status)
        if error in _ERRORS:
            return _ERRORS[error]
        # And no status: there was no answer to take one from.
        if error in {"server_error", "unknown"} and terminal_reason == "api_error":
            return "provider_unreachable"
        return "provider_error"


def _message(line: dict[str, Any]) -> str:
    errors = line.get("errors")
    told = [item for item in errors if isinstance(item, str)] if isinstance(errors, list) else []
    return _str(line.get("result")) or "; ".join(told) or "Claude Code reported an error."


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < 2**53 else None
