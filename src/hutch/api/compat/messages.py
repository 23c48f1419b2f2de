"""``/v1/messages``, as Anthropic's clients know it: text and images in, text out."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import Response
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials
from pydantic import BaseModel, ConfigDict, Field

from hutch.api.caller import Caller, HutchDep, admitted, bearer
from hutch.api.caller import caller as caller_with
from hutch.api.compat.asking import Asked, outlives, session_of, submit
from hutch.api.compat.chat import IdempotencyKey, SessionHeader, TimeLimit
from hutch.api.compat.content import said_of
from hutch.api.compat.conversation import Said
from hutch.api.compat.forms import form_of
from hutch.api.compat.messages_events import MessageEvents, message_of
from hutch.api.compat.models import choose
from hutch.api.compat.parameters import OWN_TOOLS, SAMPLING, Foreign, check
from hutch.api.compat.reading import Reader
from hutch.api.compat.sending import TranslatedStream, headers_of, read_to_end
from hutch.api.compat.shapes import Message
from hutch.api.errors import refused
from hutch.errors import UnsupportedParameter

router = APIRouter(prefix="/v1/messages", tags=["compatible"])
_key = APIKeyHeader(name="x-api-key", auto_error=False, description="An API key, as Anthropic's.")

_IGNORED: Final = SAMPLING | {"cache_control", "inference_geo", "max_tokens", "thinking"}
_REFUSED: Final = {
    "container": OWN_TOOLS,
    "context_management": "the CLIs keep their own context",
    "mcp_servers": OWN_TOOLS,
    "output_format": "it is `output_config.format` by now",
    "stop_sequences": "an answer cannot be cut at a text",
    "tool_choice": OWN_TOOLS,
    "tools": OWN_TOOLS,
}
_HARMLESS: Final[dict[str, tuple[Any, ...]]] = {
    "tool_choice": ({"type": "none"}, {"type": "auto"}),
}
_THOUGHTS: Final = frozenset({"thinking", "redacted_thinking"})


async def caller(
    request: Request,
    presented: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    x_api_key: Annotated[str | None, Depends(_key)],
    x_hutch_user: Annotated[
        str | None, Header(description="With a service or admin key: the user's id.")
    ] = None,
) -> Caller:
    text = presented.credentials if presented is not None else x_api_key
    return await caller_with(request, await admitted(request, text), x_hutch_user)


AnthropicCallerDep = Annotated[Caller, Depends(caller)]


class InputMessage(BaseModel):
    model_config = ConfigDict(extra="allow")
    role: Literal["user", "assistant"]
    content: str | list[dict[str, Any]]


class MessagesRequest(Foreign):
    model: str = Field(
        description="`claude`, `codex` or `gemini`, or one of these and a model: `claude/opus`."
    )
    messages: list[InputMessage] = Field(min_length=1)
    system: str | list[dict[str, Any]] | None = None
    stream: bool | None = None
    output_config: dict[str, Any] | None = Field(
        None, description="`format`: a JSON schema, where the CLI can."
    )


@router.post("", response_model=Message, responses={200: {"content": {"text/event-stream": {}}}})
async def create_message(
    *,
    asked: MessagesRequest,
    request: Request,
    hutch: HutchDep,
    caller: AnthropicCallerDep,
    idempotency_key: IdempotencyKey = None,
    x_hutch_session: SessionHeader = None,
    timeout_s: TimeLimit = None,
) -> Response | Message:
    """Run the last message's prompt. When the client goes away, the run is cancelled, unless there
    is an `Idempotency-Key`.
    """
    check(asked, ignored=_IGNORED, refused=_REFUSED, harmless=_HARMLESS)
    said = [_said(message, number) for number, message in enumerate(asked.messages)]
    system = said_of("system", asked.system, place="system")
    choice = choose(asked.model)
    wanted = (asked.output_config or {}).get("format")
    form = form_of(wanted, place="output_config.format", provider=choice.provider)
    metadata = (asked.model_extra or {}).get("metadata")
    named = {
        "X-Hutch-Session": x_hutch_session,
        "metadata.session_id": metadata.get("session_id") if isinstance(metadata, dict) else None,
    }
    session = session_of(named, caller=caller, user=None)
    run = await submit(
        hutch,
        caller,
        Asked(choice, [system, *said], session, form=form),
        body=asked,
        idempotency_key=idempotency_key,
        timeout_s=timeout_s,
    )
    goes_on = outlives(idempotency_key)
    if asked.stream:
        entries = await hutch.runs.events(caller.user_id, run.id)
        events = MessageEvents(run, model=asked.model)
        return TranslatedStream(hutch, run, entries, events, outlives=goes_on)
    reader = await read_to_end(request, hutch, run, outlives=goes_on)
    if not isinstance(reader, Reader):
        return reader
    if reader.end is not None and reader.end.failure is not None:
        return refused(request, reader.end.failure, headers=headers_of(run))
    return message_of(run, reader, model=asked.model)


@router.post("/count_tokens", responses={400: {}}, status_code=400)
async def count_tokens(_: AnthropicCallerDep) -> None:
    """Always refused: what an agent sends to its model is known once it has been sent."""
    raise UnsupportedParameter(
        "Tokens cannot be counted before a run: an agent adds its own instructions, tools and "
        "files to what is sent.",
        hint="Each answer has its `usage`.",
        param="messages",
    )


def _said(message: InputMessage, number: int) -> Said:
    place = f"messages.{number}.content"
    passed_over = _THOUGHTS if message.role == "assistant" else frozenset[str]()
    return said_of(message.role, message.content, place=place, passed_over=passed_over)
