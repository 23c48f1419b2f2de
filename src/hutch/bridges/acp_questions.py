"""Approvals as the Agent Client Protocol has them: the editor asks whoever sits before it."""

from __future__ import annotations

import asyncio
import re
from types import TracebackType
from typing import Any, Final, Literal, Self

import acp
from acp import schema
from acp.interfaces import Client as Editor

from hutch.client import AsyncClient, ClientError
from hutch.client import events as ev
from hutch.client.events import Event

TOOLS: Final[dict[str, schema.ToolKind]] = {
    "shell": "execute",
    "read": "read",
    "edit": "edit",
    "search": "search",
    "fetch": "fetch",
}
_TITLE_MAX: Final = 200  # characters
_TICKS: Final = re.compile(r"`+")
_OPTIONS: Final = (
    schema.PermissionOption(option_id="allow", name="Allow", kind="allow_once"),
    schema.PermissionOption(option_id="always", name="Always allow", kind="allow_always"),
    schema.PermissionOption(option_id="deny", name="Deny", kind="reject_once"),
)


class Questions:
    """The open ones of one turn. Those that are left at its end are dropped."""

    def __init__(self, client: AsyncClient, editor: Editor, session_id: str) -> None:
        self._client = client
        self._editor = editor
        self._session_id = session_id
        self._open: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def heard(self, event: Event) -> None:
        match event:
            case ev.ApprovalRequested():
                self._open[event.approval_id] = asyncio.create_task(self._ask(event))
            case ev.ApprovalDecided(approval_id=approval_id):
                # By the editor, or by somebody else: then nobody waits for its answer any more.
                task = self._open.pop(approval_id, None)
                if task is not None:
                    task.cancel()

    async def _ask(self, event: ev.ApprovalRequested) -> None:
        try:
            answer = await self._editor.request_permission(
                session_id=self._session_id,
                tool_call=schema.ToolCallUpdate(
                    tool_call_id=event.tool_id,
                    title=title(event.name, event.input),
                    kind=TOOLS.get(event.kind, "other"),
                    status="pending",
                    raw_input=event.input,
                    content=_content(event),
                ),
                options=list(_OPTIONS),
            )
            decision = _decision(answer.outcome)
        except acp.RequestError:  # it cannot ask, and nobody else would
            decision = "deny"
        if decision is None:
            return  # the turn is being cancelled
        try:
            await self._client.decide(event.run_id, event.approval_id, decision)
        except ClientError:
            return  # decided before; the run's events tell how


def title(name: str, given: dict[str, Any]) -> str:
    command = given.get("command") or given.get("file_path") or given.get("path")
    text = " ".join(str(command or name).split())
    return text if len(text) <= _TITLE_MAX else text[: _TITLE_MAX - 1] + "…"


def _content(event: ev.ApprovalRequested) -> list[Any] | None:
    if event.diff is None:
        return None
    # Longer than any in it, so that nothing of it can look like something beside it.
    fence = "`" * max(3, 1 + max(map(len, _TICKS.findall(event.diff)), default=0))
    left_out = "\n… and more, which was left out" if event.truncated else ""
    text = f"{fence}diff\n{event.diff.rstrip()}\n{fence}{left_out}"
    return [acp.tool_content(acp.text_block(text))]


def _decision(
    outcome: schema.AllowedOutcome | schema.DeniedOutcome,
) -> Literal["allow", "always", "deny"] | None:
    match outcome:
        case schema.AllowedOutcome(option_id="allow" | "always" | "deny" as chosen):
            return chosen
        case schema.AllowedOutcome():
            return "deny"
    return None
