"""What ``codex app-server`` 0.169 says during a turn, in the words of ``hutch_runtime.protocol``.

Pure translation: notifications in, events out. Names and shapes are those of ``codex app-server
generate-ts --experimental``; whatever is not listed here becomes an ``unparsed`` event.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from hutch_runtime.providers.codex_errors import Failure, read_error
from hutch_runtime.providers.codex_items import ToolItem, read_tool

Emit = Callable[..., object]

# Known, and of no interest to a reader of the run.
_SILENT: Final = frozenset({
    "account/rateLimits/updated",
    "account/updated",
    "app/list/updated",
    "autoApprovalReview/strictReviewRequired",
    "configWarning",
    "deprecationNotice",
    "guardianWarning",
    "hook/completed",
    "hook/started",
    "item/autoApprovalReview/completed",
    "item/autoApprovalReview/started",
    "item/commandExecution/terminalInteraction",
    "item/fileChange/patchUpdated",
    "item/mcpToolCall/progress",
    "item/reasoning/summaryPartAdded",
    "mcpServer/startupStatus/updated",
    "model/rerouted",
    "model/safetyBuffering/updated",
    "model/verification",
    "modelProvider/authRecoveryCompleted",
    "modelProvider/authRecoveryStarted",
    "process/exited",
    "project/changed",
    "rawResponse/completed",
    "rawResponseItem/completed",
    "remoteControl/status/changed",
    "serverRequest/resolved",
    "skills/changed",
    "thread/closed",
    "thread/compacted",
    "thread/environment/connected",
    "thread/environment/disconnected",
    "thread/goal/cleared",
    "thread/goal/updated",
    "thread/name/updated",
    "thread/prediction/updated",
    "thread/project/updated",
    "thread/queue/changed",
    "thread/readState/changed",
    "thread/settings/updated",
    "thread/started",
    "thread/status/changed",
    "turn/diff/updated",
    "turn/moderationMetadata",
    "turn/started",
    "warning",
})  # fmt: skip
_SILENT_ITEMS: Final = frozenset({
    "contextCompaction",
    "enteredReviewMode",
    "exitedReviewMode",
    "functionCallOutput",
    "hookPrompt",
    "subAgentActivity",
    "userMessage",
})  # fmt: skip
_PLAN_STATUS: Final = {"pending": "pending", "inProgress": "in_progress", "completed": "completed"}
_ATTEMPT: Final = re.compile(r"\b(\d{1,4})/\d{1,4}\b")
_TOKENS: Final = ("inputTokens", "outputTokens", "cachedInputTokens")


class TurnTranslator:
    """Turns the notifications of one turn into events.

    Args:
        emit: called as ``emit(type, **fields)``.
        usage_before: the thread's token totals (input, output, cached) before this turn, or None if
            they are not known; Codex reports totals of the whole thread.
    """

    def __init__(self, emit: Emit, usage_before: tuple[int, int, int] | None) -> None:
        self._emit = emit
        self._before = usage_before
        self.totals = usage_before
        self._open: dict[str, ToolItem] = {}
        self._block: list[str] = []  # deltas of a block that is not finished
        self.text = ""  # the last block of the answer
        self._reasoned: set[str] = set()
        self._retries = 0
        self.failure: Failure | None = None
        self.status: str | None = None  # of the finished turn: completed | interrupted | failed

    def take(self, method: str, params: dict[str, Any], line: str) -> None:
        """One notification of this turn; ``status`` is set once it was the last."""
        match method:
            case "item/agentMessage/delta" | "item/plan/delta":
                self._delta("text.delta", params)
                self._block.append(_text(params.get("delta")))
            case "item/reasoning/summaryTextDelta" | "item/reasoning/textDelta":
                self._reasoned.add(_text(params.get("itemId")))
                self._delta("reasoning.delta", params)
            case "item/commandExecution/outputDelta" | "item/fileChange/outputDelta":
                self._output(params)
            case "item/started" | "item/completed":
                self._item(params, line, done=method == "item/completed")
            case "turn/plan/updated":
                self._plan(params)
            case "thread/tokenUsage/updated":
                self._usage(params)
            case "error":
                self._error(params)
            case "turn/completed":
                self._completed(params)
            case _ if method not in _SILENT:
                self._emit("unparsed", line=line)

    def close(self) -> None:
        """End what the turn left open, and report its tokens.

        Codex says nothing more of a tool or a text that an interruption or an error cut off.
        """
        self._end_block("".join(self._block))
        for item_id in list(self._open):
            del self._open[item_id]
            self._emit("tool.finished", tool_id=item_id, ok=False, output="")
        if self.totals is not None and self._before is not None:
            used = [max(0, now - then) for now, then in zip(self.totals, self._before, strict=True)]
            if any(used):
                self._emit(
                    "usage",
                    input_tokens=used[0],
                    output_tokens=used[1],
                    cached_tokens=used[2],
                    cost_usd=None,
                )

    @property
    def begun(self) -> Mapping[str, ToolItem]:
        """The tool calls that have not ended, by their ids."""
        return self._open

    def begin_from(self, totals: tuple[int, int, int] | None) -> None:
        """The thread's totals before this turn, learnt late."""
        self._before = self.totals = totals

    def _end_block(self, text: str) -> None:
        self._block.clear()
        if text:
            self.text = text
            self._emit("text", text=text)

    def _delta(self, event: str, params: dict[str, Any]) -> None:
        text = _text(params.get("delta"))
        if text:
            self._emit(event, text=text)

    def _output(self, params: dict[str, Any]) -> None:
        item_id, text = _text(params.get("itemId")), _text(params.get("delta"))
        if item_id in self._open and text:
            self._emit("tool.output", tool_id=item_id, text=text)

    def _item(self, params: dict[str, Any], line: str, *, done: bool) -> None:
        item = params.get("item")
        if not isinstance(item, dict):
            self._emit("unparsed", line=line)
            return
        kind, item_id = _text(item.get("type")), _text(item.get("id"))
        if kind in {"agentMessage", "plan"}:
            if done:
                self._end_block(_text(item.get("text")))
        elif kind == "reasoning":
            if done and item_id not in self._reasoned:
                self._reasoning(item)
        elif (tool := read_tool(item)) is not None:
            self._tool(item_id, tool, done=done)
        elif kind not in _SILENT_ITEMS:
            self._emit("unparsed", line=line)

    def _reasoning(self, item: dict[str, Any]) -> None:
        parts = [*_list(item.get("summary")), *_list(item.get("content"))]
        text = "\n".join(part for part in parts if isinstance(part, str))
        if text:
            self._emit("reasoning.delta", text=text)

    def _tool(self, item_id: str, tool: ToolItem, *, done: bool) -> None:
        if item_id not in self._open:
            self._open[item_id] = tool
            self._emit(
                "tool.started", tool_id=item_id, kind=tool.kind, name=tool.name, input=tool.input
            )
        if done:
            del self._open[item_id]
            self._emit("tool.finished", tool_id=item_id, ok=tool.ok, output=tool.output)

    def _plan(self, params: dict[str, Any]) -> None:
        items = [
            {
                "text": _text(step.get("step")),
                "status": _PLAN_STATUS.get(_text(step.get("status")), "pending"),
            }
            for step in _list(params.get("plan"))
            if isinstance(step, dict)
        ]
        self._emit("plan", items=items)

    def _usage(self, params: dict[str, Any]) -> None:
        usage = params.get("tokenUsage")
        total = read_totals(usage, "total")
        if total is None:
            return
        if self._before is None:
            last = read_totals(usage, "last") or (0, 0, 0)
            self._before = (total[0] - last[0], total[1] - last[1], total[2] - last[2])
        self.totals = total

    def _error(self, params: dict[str, Any]) -> None:
        failure = read_error(params.get("error"))
        if params.get("willRetry") is not True:
            self.failure = failure
            return
        self._retries += 1
        said = _ATTEMPT.search(failure.message)
        self._emit(
            "retrying",
            attempt=int(said[1]) if said else self._retries,
            delay_ms=None,
            status=failure.http_status,
            code=failure.code,
        )

    def _completed(self, params: dict[str, Any]) -> None:
        turn = params.get("turn")
        turn = turn if isinstance(turn, dict) else {}
        if turn.get("error") is not None:
            self.failure = read_error(turn["error"])
        self.status = _text(turn.get("status")) or "failed"


def read_totals(usage: object, which: str) -> tuple[int, int, int] | None:
    """Input, output and cached tokens in a ``thread/tokenUsage/updated``, if they are there."""
    counts = usage.get(which) if isinstance(usage, dict) else None
    if not isinstance(counts, dict):
        return None
    values = [counts.get(name) for name in _TOKENS]
    read = [value if type(value) is int and value >= 0 else 0 for value in values]
    return read[0], read[1], read[2]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
