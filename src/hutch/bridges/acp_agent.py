"""``hutch acp``: the user's agent for an editor that speaks the Agent Client Protocol.

A session begins in Hutch with its first prompt. The editor knows it before that, by an id of ours,
which is good for as long as this program runs; sessions that are listed have Hutch's own ids. The
agent works on the files of its container, not on the editor's.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import acp
from acp import schema
from acp.interfaces import Client as Editor

from hutch.bridges.acp_questions import TOOLS, Questions, title
from hutch.client import ApiError, AsyncClient, ClientError, NotFound
from hutch.client import events as ev
from hutch.client.events import Event
from hutch.client.models import Run

_STOPS: Final[dict[str, schema.StopReason]] = {
    "end_turn": "end_turn",
    "max_turns": "max_turn_requests",
    "max_cost": "max_turn_requests",
    "refusal": "refusal",
    "cancelled": "cancelled",
}
_MODES: Final = (
    schema.SessionMode(
        id="auto", name="Auto", description="The agent does what it wants, inside its container."
    ),
    schema.SessionMode(id="ask", name="Ask", description="It asks before it changes something."),
)


@dataclass
class Conversation:
    session_id: str | None = None  # Hutch's
    run_id: str | None = None  # of the turn under way
    cancelled: bool = False  # before it had an id
    mode: str = "auto"  # or ask, from its next prompt on


class HutchAgent:
    """``acp.Agent``, without the methods that it does not do: those are answered as not found."""

    def __init__(
        self,
        client: AsyncClient,
        provider: str,
        *,
        model: str | None = None,
        mode: str = "auto",
        timeout_s: float | None = None,
    ) -> None:
        """``mode``: that a session begins in. ``timeout_s``: of each turn."""
        self._client = client
        self._provider = provider
        self._model = model
        self._mode = mode
        self._timeout_s = timeout_s
        self._conversations: dict[str, Conversation] = {}
        self._editor: Editor | None = None

    def on_connect(self, conn: Editor) -> None:
        self._editor = conn

    async def initialize(self, protocol_version: int, **_: Any) -> schema.InitializeResponse:
        return schema.InitializeResponse(
            protocol_version=min(protocol_version, acp.PROTOCOL_VERSION),
            agent_capabilities=schema.AgentCapabilities(
                load_session=True,
                prompt_capabilities=schema.PromptCapabilities(
                    embedded_context=True, image=False, audio=False
                ),
                session_capabilities=schema.SessionCapabilities(
                    list=schema.SessionListCapabilities()
                ),
            ),
            agent_info=schema.Implementation(
                name="hutch", title=f"Hutch: {self._provider}", version=version("hutch")
            ),
            auth_methods=[],
        )

    async def new_session(self, **_: Any) -> schema.NewSessionResponse:
        name = f"new_{secrets.token_hex(8)}"
        self._conversations[name] = Conversation(mode=self._mode)
        return schema.NewSessionResponse(session_id=name, modes=_modes(self._mode))

    async def load_session(self, session_id: str, **_: Any) -> schema.LoadSessionResponse | None:
        """What was said so far, and then it goes on. Also under an id that ``new_session`` gave."""
        known = self._conversations.get(session_id)
        conversation = known or Conversation(session_id, mode=self._mode)
        ours = conversation.session_id
        try:
            if ours is not None:
                await self._client.session(ours)
                # One that is under way is followed to its end, and can be cancelled meanwhile.
                self._conversations[session_id] = conversation
                for run in reversed(await self._client.runs(limit=None, session_id=ours)):
                    conversation.run_id = None if run.finished else run.id
                    await self._replay(session_id, await self._client.get_run(run.id))
        except NotFound:
            raise acp.RequestError.resource_not_found(session_id) from None
        except ClientError as error:
            raise _refused(error) from None
        finally:
            conversation.run_id = None
        return schema.LoadSessionResponse(modes=_modes(conversation.mode))

    async def set_session_mode(
        self, mode_id: str, session_id: str, **_: Any
    ) -> schema.SetSessionModeResponse:
        if mode_id not in {mode.id for mode in _MODES}:
            raise acp.RequestError.invalid_params({"details": "no such mode"})
        self._conversation(session_id).mode = mode_id
        return schema.SetSessionModeResponse()

    async def list_sessions(self, **_: Any) -> schema.ListSessionsResponse:
        try:
            found = await self._client.sessions(limit=100)
        except ClientError as error:
            raise _refused(error) from None
        ours = [session for session in found if session.provider == self._provider]
        return schema.ListSessionsResponse(
            sessions=[
                schema.SessionInfo(
                    session_id=one.id,
                    cwd="/workspace",
                    title=one.name,
                    updated_at=one.last_used_at.isoformat(),
                )
                for one in ours
            ]
        )

    async def prompt(self, session_id: str, prompt: list[Any], **_: Any) -> schema.PromptResponse:
        conversation = self._conversation(session_id)
        conversation.cancelled = False
        try:
            run = await self._client.submit(
                self._provider,
                _text(prompt),
                session_id=conversation.session_id,
                model=self._model,
                permission_mode="ask" if conversation.mode == "ask" else None,
                timeout_s=self._timeout_s,
            )
            conversation.session_id, conversation.run_id = run.session_id, run.id
            if conversation.cancelled:
                await self._client.cancel(run.id)
            return await self._turn(session_id, run)
        except ClientError as error:
            raise _refused(error) from None
        finally:
            conversation.run_id = None

    async def cancel(self, session_id: str, **_: Any) -> None:
        conversation = self._conversations.get(session_id)
        if conversation is None:
            return
        conversation.cancelled = True
        if conversation.run_id is not None:
            await self._client.cancel(conversation.run_id)

    async def _turn(self, session_id: str, run: Run) -> schema.PromptResponse:
        translation = Translation()
        assert self._editor is not None  # noqa: S101  requests come over a connection
        async with Questions(self._client, self._editor, session_id) as questions:
            async for event in self._client.follow(run.id):
                questions.heard(event)
                for update in translation.of(event):
                    await self._tell(session_id, update)
                if isinstance(event, ev.RunFinished):
                    return _ended(event)
        raise acp.RequestError.internal_error({"details": "the run has no end"})

    async def _replay(self, session_id: str, run: Run) -> None:
        await self._tell(session_id, acp.update_user_message_text(run.prompt or ""))
        translation = Translation()
        async for event in self._client.follow(run.id):
            for update in translation.of(event):
                await self._tell(session_id, update)

    async def _tell(self, session_id: str, update: Any) -> None:
        assert self._editor is not None  # noqa: S101  requests come over a connection
        await self._editor.session_update(session_id=session_id, update=update)

    def _conversation(self, session_id: str) -> Conversation:
        found = self._conversations.get(session_id)
        if found is None:
            raise acp.RequestError.resource_not_found(session_id)
        return found


def _ended(event: ev.RunFinished) -> schema.PromptResponse:
    if event.error:
        raise acp.RequestError.internal_error(
            {"code": event.error.get("code"), "details": event.error.get("message")}
        )
    return schema.PromptResponse(stop_reason=_STOPS.get(event.stop_reason, "end_turn"))


def _modes(current: str) -> schema.SessionModeState:
    return schema.SessionModeState(current_mode_id=current, available_modes=list(_MODES))


class Translation:
    """From a run's events to what an editor shows; pure."""

    def __init__(self) -> None:
        self._streamed = False
        self._output: dict[str, str] = {}

    def of(self, event: Event) -> list[Any]:
        match event:
            case ev.TextDelta(text=text):
                self._streamed = True
                return [acp.update_agent_message_text(text)]
            case ev.Text(text=text):
                streamed, self._streamed = self._streamed, False
                return [] if streamed else [acp.update_agent_message_text(text)]
            case ev.ReasoningDelta(text=text):
                return [acp.update_agent_thought_text(text)]
            case ev.ToolStarted(tool_id=tool_id, kind=kind, name=name, input=given):
                return [
                    acp.start_tool_call(
                        tool_id,
                        title(name, given),
                        kind=TOOLS.get(kind, "other"),
                        status="in_progress",
                        raw_input=given,
                    )
                ]
            case ev.ToolOutput(tool_id=tool_id, text=text):
                # Each update replaces what the call has shown.
                shown = self._output[tool_id] = self._output.get(tool_id, "") + text
                return [acp.update_tool_call(tool_id, content=_content(shown))]
            case ev.ToolFinished(tool_id=tool_id, ok=ok, output=output):
                shown = output or self._output.pop(tool_id, "")
                return [
                    acp.update_tool_call(
                        tool_id,
                        status="completed" if ok else "failed",
                        content=_content(shown) if shown else None,
                    )
                ]
            case ev.Plan(items=items):
                entries = [
                    acp.plan_entry(item.text, status=_plan_status(item.status)) for item in items
                ]
                return [acp.update_plan(entries)]
        return []


def _plan_status(status: str) -> schema.PlanEntryStatus:
    match status:
        case "in_progress" | "completed":
            return status
    return "pending"


def _content(text: str) -> list[Any]:
    return [acp.tool_content(acp.text_block(text))]


def _text(blocks: list[Any]) -> str:
    """A prompt's blocks as one text. Files that the editor has put in come along whole."""
    parts: list[str] = []
    for block in blocks:
        match block:
            case schema.TextContentBlock(text=text):
                parts.append(text)
            case schema.ResourceContentBlock(uri=uri):
                parts.append(uri)
            case schema.EmbeddedResourceContentBlock(
                resource=schema.TextResourceContents(uri=uri, text=text)
            ):
                parts.append(f"\n{uri}:\n\n{text}\n")
            case _:
                raise acp.RequestError.invalid_params({"details": "text only, no images or sound"})
    return "".join(parts)


def _refused(error: ClientError) -> acp.RequestError:
    data = {"code": error.code, "details": f"{error.message} {error.hint}".strip()}
    if isinstance(error, ApiError) and error.status == 401:
        return acp.RequestError.auth_required(data)
    return acp.RequestError.internal_error(data)
