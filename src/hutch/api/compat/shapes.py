"""Whole answers in others' protocols. ``hutch`` is ours; clients pass over what is unknown."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from hutch.api.compat.reading import Reader
from hutch.runs.models import Run
from hutch_runtime.protocol import ToolKind


class ToolCalled(BaseModel):
    tool_id: str
    kind: ToolKind
    name: str
    ok: bool | None


class HutchPart(BaseModel):
    """``GET /v1/runs/{run_id}/events`` has all of it."""

    run_id: str
    session_id: str
    stop_reason: str | None
    tools: list[ToolCalled]

    @classmethod
    def of(cls, run: Run, reader: Reader) -> HutchPart:
        return cls(
            run_id=run.id,
            session_id=run.session_id,
            stop_reason=reader.end.stop_reason if reader.end else None,
            tools=[ToolCalled(**tool) for tool in reader.tools.values()],
        )


class PromptDetails(BaseModel):
    cached_tokens: int


class ChatUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class ChatAnswer(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    reasoning_content: str | None = None


class ChatChoice(BaseModel):
    index: int = 0
    message: ChatAnswer
    logprobs: None = None
    finish_reason: Literal["stop", "length", "content_filter"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    hutch: HutchPart
