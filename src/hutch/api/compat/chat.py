"""``/v1/chat/completions``, as OpenAI's clients know it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from hutch.api.caller import CallerDep, HutchDep
from hutch.api.compat.asking import Asked, outlives, session_of, submit
from hutch.api.compat.chat_chunks import ChatChunks, answer_of
from hutch.api.compat.content import said_of
from hutch.api.compat.conversation import Role, Said
from hutch.api.compat.forms import form_of
from hutch.api.compat.models import choose
from hutch.api.compat.parameters import OWN_TOOLS, SAMPLING, Foreign, check
from hutch.api.compat.reading import Reader
from hutch.api.compat.sending import TranslatedStream, headers_of, read_to_end
from hutch.api.compat.shapes import ChatCompletion
from hutch.api.errors import refused
from hutch.errors import UnsupportedParameter

router = APIRouter(prefix="/v1/chat", tags=["compatible"])

IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=200)]
SessionHeader = Annotated[
    str | None, Header(description="The conversation: an id of a session, or your own name for it.")
]

_IGNORED: Final = SAMPLING | {
    "frequency_penalty",
    "max_completion_tokens",
    "max_tokens",
    "min_p",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "repetition_penalty",
    "safety_identifier",
    "seed",
    "store",
    "verbosity",
}
_REFUSED: Final = {
    "audio": "answers are text",
    "function_call": OWN_TOOLS,
    "functions": OWN_TOOLS,
    "logit_bias": "the CLIs cannot weigh tokens",
    "logprobs": "the CLIs do not tell probabilities",
    "modalities": "answers are text",
    "n": "a run has one answer",
    "stop": "an answer cannot be cut at a text",
    "tool_choice": OWN_TOOLS,
    "tools": OWN_TOOLS,
    "top_logprobs": "the CLIs do not tell probabilities",
    "web_search_options": "an agent searches when it sees fit",
}
_HARMLESS: Final[dict[str, tuple[Any, ...]]] = {
    "modalities": (["text"],),
    "n": (1,),
    "tool_choice": ("none", "auto"),
}
_ROLES: Final[dict[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


TimeLimit = Annotated[
    float | None,
    Header(alias="X-Hutch-Timeout", gt=0, description="Seconds for the run, the wait included."),
]


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="allow")
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")
    include_usage: bool = False


class ChatRequest(Foreign):
    model: str = Field(
        description="`claude`, `codex` or `gemini`, or one of these and a model: `claude/opus`."
    )
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: dict[str, Any] | None = Field(
        None, description="`json_schema`, where the CLI can."
    )
    user: str | None = None
    metadata: dict[str, Any] | None = Field(None, description="`session_id`: the conversation.")


@router.post(
    "/completions",
    response_model=ChatCompletion,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def complete_chat(
    *,
    asked: ChatRequest,
    request: Request,
    hutch: HutchDep,
    caller: CallerDep,
    idempotency_key: IdempotencyKey = None,
    x_hutch_session: SessionHeader = None,
    timeout_s: TimeLimit = None,
) -> Response | ChatCompletion:
    """Run the last message's prompt. When the client goes away, the run is cancelled, unless there
    is an `Idempotency-Key`.
    """
    check(asked, ignored=_IGNORED, refused=_REFUSED, harmless=_HARMLESS)
    named = {
        "X-Hutch-Session": x_hutch_session,
        "metadata.session_id": (asked.metadata or {}).get("session_id"),
    }
    choice = choose(asked.model)
    run = await submit(
        hutch,
        caller,
        Asked(
            choice,
            [_said(message, number) for number, message in enumerate(asked.messages)],
            session_of(named, caller=caller, user=asked.user),
            form=form_of(
                asked.response_format,
                place="response_format",
                provider=choice.provider,
                inside="json_schema",
            ),
        ),
        body=asked,
        idempotency_key=idempotency_key,
        timeout_s=timeout_s,
    )
    goes_on = outlives(idempotency_key)
    if asked.stream:
        entries = await hutch.runs.events(caller.user_id, run.id)
        options = asked.stream_options or StreamOptions()
        chunks = ChatChunks(run, model=asked.model, include_usage=options.include_usage)
        return TranslatedStream(hutch, run, entries, chunks, outlives=goes_on)
    reader = await read_to_end(request, hutch, run, outlives=goes_on)
    if not isinstance(reader, Reader):
        return reader
    if reader.end is not None and reader.end.failure is not None:
        return refused(request, reader.end.failure, headers=headers_of(run))
    return answer_of(run, reader, model=asked.model)


def _said(message: ChatMessage, number: int) -> Said:
    extra = message.model_extra or {}
    role = _ROLES.get(message.role)
    if role is None or extra.get("tool_calls") or extra.get("function_call"):
        raise UnsupportedParameter(
            f"messages.{number} is about a tool: {OWN_TOOLS}.",
            hint="Leave such messages out.",
            param=f"messages.{number}",
        )
    return said_of(role, message.content, place=f"messages.{number}.content")
