"""Whole answers in others' protocols. ``hutch`` is ours; clients pass over what is unknown."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

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


MessageStop: TypeAlias = Literal["end_turn", "max_tokens", "refusal"]


class MessageText(BaseModel):
    type: Literal["text"] = "text"
    text: str


class MessageUsage(BaseModel):
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int = 0


class Message(BaseModel):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[MessageText]
    stop_reason: MessageStop | None
    stop_sequence: None = None
    usage: MessageUsage
    hutch: HutchPart


class ResponseText(BaseModel):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[str] = []
    logprobs: list[str] = []


class ResponseMessage(BaseModel):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[ResponseText]


class CachedTokens(BaseModel):
    cached_tokens: int


class ReasoningTokens(BaseModel):
    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens = ReasoningTokens()
    total_tokens: int


class ResponseError(BaseModel):
    code: str
    message: str


class Incomplete(BaseModel):
    reason: Literal["max_output_tokens", "content_filter"]


class ConversationOf(BaseModel):
    id: str


class ResponseAnswer(BaseModel):
    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
    error: ResponseError | None
    incomplete_details: Incomplete | None
    instructions: str | None
    model: str
    output: list[ResponseMessage]
    parallel_tool_calls: bool = False
    previous_response_id: str | None
    conversation: ConversationOf
    text: dict[str, dict[str, Any]]
    tool_choice: Literal["auto"] = "auto"
    tools: list[str] = []
    usage: ResponseUsage | None
    metadata: dict[str, str]
    hutch: HutchPart
