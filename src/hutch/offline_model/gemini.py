"""Gemini generateContent, as Gemini CLI 0.61 uses it (recorded from the real CLI)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hutch.offline_model.behaviour import Action, Answer, CallTool, WriteFile
from hutch.offline_model.conversation import (
    Conversation,
    Malformed,
    Transcript,
    estimate_tokens,
    objects,
    text_of,
)
from hutch.offline_model.wire import Script, new_id, no_tool, shell_command, unnamed_event

_WRAPPERS: Final = ("session_context", "hook_context")

_STATUS_NAMES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


class GeminiContent:
    def parse(self, body: Mapping[str, Any], *, model: str, stream: bool) -> Conversation:
        # countTokens may wrap the request once more.
        inner = body.get("generateContentRequest")
        request: Mapping[str, Any] = inner if isinstance(inner, dict) else body
        if not isinstance(request.get("contents"), list):
            raise Malformed("contents is not specified")
        transcript = Transcript(_WRAPPERS)
        for content in objects(request["contents"]):
            if content.get("role") != "model":
                _read_user(content, transcript)
        config = request.get("generationConfig")
        settings: Mapping[str, Any] = config if isinstance(config, dict) else {}
        json_wanted = settings.get("responseMimeType") == "application/json"
        tools = frozenset(
            text_of(function.get("name"))
            for tool in objects(request.get("tools"))
            for function in objects(tool.get("functionDeclarations"))
        )
        schema = settings.get("responseJsonSchema", settings.get("responseSchema"))
        own_account = not tools and (json_wanted or bool(request.get("systemInstruction")))
        return Conversation(
            model=model,
            stream=stream,
            kind="side" if own_account else "turn",
            user_texts=tuple(transcript.user_texts),
            tools=tools,
            tool_result=transcript.tool_result,
            schema=schema if isinstance(schema, dict) else None,
            input_tokens=estimate_tokens(len(str(request))),
        )

    def whole(self, conversation: Conversation, answer: Answer) -> dict[str, Any]:
        parts: list[dict[str, Any]] = []
        if answer.reasoning:
            parts.append(_thought(answer))
        parts.append(_last_part(conversation, answer) or {"text": answer.text})
        return _chunk(new_id(""), conversation, answer, parts, last=True)

    def script(self, conversation: Conversation, answer: Answer) -> Script:
        response_id = new_id("")

        def event(parts: list[dict[str, Any]], *, last: bool = False) -> bytes:
            return unnamed_event(_chunk(response_id, conversation, answer, parts, last=last))

        opening = event([_thought(answer)] if answer.reasoning else [])
        pieces = tuple(event([{"text": piece}]) for piece in answer.pieces)
        last_part = _last_part(conversation, answer)
        if last_part is not None:
            pieces = (event([last_part]),)
        # The finish reason comes with an empty text, as the real API does it.
        return Script((opening,), pieces, (event([{"text": ""}], last=True),))

    def error(self, status: int, message: str) -> tuple[int, dict[str, Any]]:
        real = 503 if status == 529 else status  # Google has no 529
        name = _STATUS_NAMES.get(real, "INTERNAL" if real >= 500 else "INVALID_ARGUMENT")
        return real, {"error": {"code": real, "message": message, "status": name}}

    def count(self, tokens: int) -> dict[str, Any]:
        return {"totalTokens": tokens}


def _read_user(content: Mapping[str, Any], transcript: Transcript) -> None:
    for part in objects(content.get("parts")):
        response = part.get("functionResponse")
        if isinstance(response, dict):
            transcript.result(response.get("response"))
        elif not part.get("thought"):
            transcript.user(text_of(part.get("text")))


def _thought(answer: Answer) -> dict[str, Any]:
    # The CLI shows the bold line as the subject of the thought.
    return {"text": f"**Offline** {answer.reasoning}", "thought": True}


def _last_part(conversation: Conversation, answer: Answer) -> dict[str, Any] | None:
    """The tool call, or why there is none; None if the answer is text."""
    if answer.action is None:
        return None
    call = _call(answer.action, conversation.tools)
    return {"functionCall": call} if call else {"text": no_tool(conversation.tools)}


def _call(action: Action, tools: frozenset[str]) -> dict[str, Any] | None:
    if isinstance(action, CallTool):
        name = f"mcp_{action.server}_{action.tool}"
        return {"name": name, "args": dict(action.arguments)} if name in tools else None
    if isinstance(action, WriteFile) and "write_file" in tools:
        return {
            "name": "write_file",
            "args": {"file_path": action.path, "content": action.content},
        }
    if "run_shell_command" in tools:
        args = {"command": shell_command(action), "description": "Asked for by a magic word"}
        return {"name": "run_shell_command", "args": args}
    return None


def _chunk(
    response_id: str,
    conversation: Conversation,
    answer: Answer,
    parts: list[dict[str, Any]],
    *,
    last: bool,
) -> dict[str, Any]:
    thoughts = estimate_tokens(len(answer.reasoning)) if answer.reasoning else 0
    written = estimate_tokens(len(answer.text))
    chunk: dict[str, Any] = {
        "responseId": response_id,
        "modelVersion": conversation.model,
        "usageMetadata": {
            "promptTokenCount": conversation.input_tokens,
            "candidatesTokenCount": written,
            "thoughtsTokenCount": thoughts,
            "totalTokenCount": conversation.input_tokens + written + thoughts,
        },
    }
    if parts:
        candidate: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": parts}}
        if last:
            candidate["finishReason"] = "STOP"
        chunk["candidates"] = [candidate]
    return chunk
