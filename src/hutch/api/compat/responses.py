"""``/v1/responses``, as OpenAI's clients know it: text and images in, text out, and what was said
before by the id of a response.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from hutch.api.caller import Caller, CallerDep, HutchDep
from hutch.api.compat.asking import Asked, outlives, session_of, submit
from hutch.api.compat.chat import IdempotencyKey, SessionHeader, TimeLimit
from hutch.api.compat.content import said_of
from hutch.api.compat.conversation import Role, Said
from hutch.api.compat.forms import form_of
from hutch.api.compat.models import choose
from hutch.api.compat.parameters import OWN_TOOLS, SAMPLING, Foreign, check
from hutch.api.compat.reading import Reader
from hutch.api.compat.responses_events import About, ResponseEvents, answer_of, run_id_of
from hutch.api.compat.sending import TranslatedStream, headers_of, read_to_end
from hutch.api.compat.shapes import ResponseAnswer
from hutch.api.errors import refused
from hutch.app import Hutch
from hutch.errors import InvalidRequest, NotFound, UnsupportedParameter
from hutch.runs.models import Run

router = APIRouter(prefix="/v1/responses", tags=["compatible"])

_IGNORED: Final = SAMPLING | {
    "include",
    "max_output_tokens",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning",
    "safety_identifier",
    "stream_options",
    "truncation",
}
_REFUSED: Final = {
    "background": "POST /v1/runs with `wait: 0` starts a run and comes back",
    "context_management": "the CLIs keep their own context",
    "max_tool_calls": "an agent's tool calls cannot be counted off",
    "prompt": "there are no stored prompts",
    "tool_choice": OWN_TOOLS,
    "tools": OWN_TOOLS,
    "top_logprobs": "the CLIs do not tell probabilities",
}
_HARMLESS: Final[dict[str, tuple[Any, ...]]] = {"tool_choice": ("none", "auto")}
_ROLES: Final[dict[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


class ConversationParam(BaseModel):
    id: str


class ResponsesRequest(Foreign):
    model: str = Field(
        description="`claude`, `codex` or `gemini`, or one of these and a model: `claude/opus`."
    )
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationParam | None = Field(None, description="An id of a session.")
    text: dict[str, Any] | None = Field(
        None, description="`format`: `json_schema`, where the CLI can."
    )
    store: bool | None = None
    stream: bool | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = Field(None, description="`session_id`: the conversation.")


@router.post(
    "",
    response_model=ResponseAnswer,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def create_response(
    *,
    asked: ResponsesRequest,
    request: Request,
    hutch: HutchDep,
    caller: CallerDep,
    idempotency_key: IdempotencyKey = None,
    x_hutch_session: SessionHeader = None,
    timeout_s: TimeLimit = None,
) -> Response | ResponseAnswer:
    """Run the last message's prompt. When the client goes away, the run is cancelled, unless there
    is an `Idempotency-Key`.
    """
    _check(asked)
    conversation = asked.conversation
    named = {
        "X-Hutch-Session": x_hutch_session,
        "metadata.session_id": (asked.metadata or {}).get("session_id"),
        "conversation": conversation if isinstance(conversation, str | None) else conversation.id,
    }
    session = session_of(named, caller=caller, user=asked.user)
    previous = await _previous(hutch, caller, asked)
    if previous is not None:
        if session not in {None, previous.session_id}:
            raise InvalidRequest("previous_response_id is of another conversation.")
        session = previous.session_id
    choice = choose(asked.model)
    run = await submit(
        hutch,
        caller,
        Asked(
            choice,
            _said(asked.input),
            session,
            asked.instructions or "",
            form_of(
                (asked.text or {}).get("format"), place="text.format", provider=choice.provider
            ),
        ),
        body=asked,
        idempotency_key=idempotency_key,
        timeout_s=timeout_s,
        only_after=previous,
    )
    about = About(
        run,
        model=asked.model,
        instructions=asked.instructions,
        previous=asked.previous_response_id,
        metadata={name: _encodable(value) for name, value in (asked.metadata or {}).items()},
    )
    goes_on = outlives(idempotency_key)
    if asked.stream:
        entries = await hutch.runs.events(caller.user_id, run.id)
        return TranslatedStream(hutch, run, entries, ResponseEvents(about), outlives=goes_on)
    reader = await read_to_end(request, hutch, run, outlives=goes_on)
    if not isinstance(reader, Reader):
        return reader
    if reader.end is not None and reader.end.failure is not None:
        return refused(request, reader.end.failure, headers=headers_of(run))
    return answer_of(about, reader)


@router.get("/{response_id}")
async def get_response(response_id: str, hutch: HutchDep, caller: CallerDep) -> ResponseAnswer:
    """As far as it has come. What the request said beside its prompt is not kept."""
    run = await hutch.runs.get(caller.user_id, run_id_of(response_id))
    reader = Reader.of(run)
    entries, _ = await hutch.runs.events_within(run.user_id, run.id, after=0, within_s=0)
    for entry in entries:
        for _ in reader.take(entry):
            pass
    model = f"{run.provider}/{run.model}" if run.model else run.provider
    return answer_of(About(run, model=model), reader)


async def _previous(hutch: Hutch, caller: Caller, asked: ResponsesRequest) -> Run | None:
    if asked.previous_response_id is None:
        return None
    try:
        return await hutch.runs.get(caller.user_id, run_id_of(asked.previous_response_id))
    except NotFound:
        raise NotFound(
            "There is no such response for previous_response_id.",
            hint="Send the id of a response of this user's.",
        ) from None


def _encodable(value: Any) -> str:
    """JSON can carry half of a surrogate pair in, but not out."""
    return str(value).encode("utf-8", "replace").decode()


def _check(asked: ResponsesRequest) -> None:
    check(asked, ignored=_IGNORED, refused=_REFUSED, harmless=_HARMLESS)
    if asked.store is False:
        raise UnsupportedParameter(
            "`store` cannot be false: every run is kept.",
            hint="Leave it out, and delete the session when you are done with it.",
            param="store",
        )


def _said(given: str | list[dict[str, Any]]) -> list[Said]:
    if isinstance(given, str):
        return [Said("user", given)]
    said = []
    for number, item in enumerate(given):
        role = _ROLES.get(str(item.get("role")))
        if item.get("type", "message") != "message" or role is None:
            raise UnsupportedParameter(
                f"input.{number} is no message.",
                hint="Send messages only; what an agent has done it knows by its session.",
                param=f"input.{number}",
            )
        said.append(said_of(role, item.get("content"), place=f"input.{number}.content"))
    return said
