"""OpenAI Responses, as Codex 0.169 uses it (recorded from the real CLI)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, Final

from hutch.offline_model.behaviour import Action, Answer, CallTool
from hutch.offline_model.conversation import (
    Conversation,
    Malformed,
    Transcript,
    estimate_tokens,
    objects,
    text_of,
)
from hutch.offline_model.wire import Script, named_event, new_id, no_tool, shell_command

_WRAPPERS: Final = (
    "environment_context",
    "user_instructions",
    "INSTRUCTIONS",
    "turn_aborted",
    "skill",
    "subagent_notification",
)
# How Codex opens the message that carries a repository's AGENTS.md.
_AGENTS_MD: Final = "# AGENTS.md instructions"

# (type, code) of the error object. Codex tells overload by the code.
_ERRORS: Final[dict[int, tuple[str, str | None]]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", None),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    503: ("server_error", "server_is_overloaded"),
}


class OpenAIResponses:
    def parse(self, body: Mapping[str, Any], *, model: str, stream: bool) -> Conversation:
        given = body.get("input")
        if not isinstance(given, str | list):
            raise Malformed("Missing required parameter: 'input'.")
        transcript = Transcript(_WRAPPERS)
        tools = set(_tool_names(body.get("tools")))
        instructions = bool(body.get("instructions"))
        if isinstance(given, str):
            transcript.user(given)
        for item in objects(given):
            kind = text_of(item.get("type")) or "message"
            if kind == "additional_tools":
                tools.update(_tool_names(item.get("tools")))
            elif kind.endswith("_output"):
                transcript.result(_output_text(item.get("output")))
            elif kind == "message" and item.get("role") == "user":
                _read_user(item.get("content"), transcript)
            elif kind == "message" and item.get("role") in {"developer", "system"}:
                instructions = True
        text = body.get("text")
        wanted = text.get("format") if isinstance(text, dict) else None
        schema = wanted.get("schema") if isinstance(wanted, dict) else None
        return Conversation(
            model=text_of(body.get("model")) or model,
            stream=stream or body.get("stream") is True,
            kind="side" if instructions and not tools else "turn",
            user_texts=tuple(transcript.user_texts),
            tools=frozenset(tools),
            tool_result=transcript.tool_result,
            schema=schema if isinstance(schema, dict) else None,
            input_tokens=estimate_tokens(len(str(body))),
        )

    def whole(self, conversation: Conversation, answer: Answer) -> dict[str, Any]:
        output = _items(conversation, answer)
        return _response(new_id("resp_"), conversation, "completed", answer, output)

    def script(self, conversation: Conversation, answer: Answer) -> Script:
        numbers = count()
        response_id = new_id("resp_")

        def events(*given: dict[str, Any]) -> tuple[bytes, ...]:
            return tuple(
                named_event({**event, "sequence_number": next(numbers)}) for event in given
            )

        started = _response(response_id, conversation, "in_progress", None, [])
        opening = events(
            {"type": "response.created", "response": started},
            {"type": "response.in_progress", "response": started},
        )
        pieces: tuple[bytes, ...] = ()
        closing: tuple[bytes, ...] = ()
        items = _items(conversation, answer)
        for index, item in enumerate(items):
            if item["type"] == "reasoning":
                opening += events(*_reasoning_events(index, item))
            elif item["type"] == "message":
                before, deltas, after = _message_events(index, item, answer)
                opening += events(*before)
                pieces = events(*deltas)
                closing += events(*after)
            else:
                closing += events(
                    {"type": "response.output_item.added", "output_index": index, "item": item},
                    _done(index, item),
                )
        finished = _response(response_id, conversation, "completed", answer, items)
        closing += events({"type": "response.completed", "response": finished})
        return Script(opening, pieces, closing)

    def error(self, status: int, message: str) -> tuple[int, dict[str, Any]]:
        real = 503 if status == 529 else status  # OpenAI has no 529
        fallback = "server_error" if real >= 500 else "invalid_request_error"
        kind, code = _ERRORS.get(real, (fallback, None))
        return real, {"error": {"message": message, "type": kind, "param": None, "code": code}}

    def count(self, tokens: int) -> dict[str, Any]:
        return {"object": "response.input_tokens", "input_tokens": tokens}


def _tool_names(tools: Any) -> Iterator[str]:
    """The names offered; since 0.16x Codex groups them in namespaces."""
    for tool in objects(tools):
        if tool.get("type") == "namespace":
            yield from _tool_names(tool.get("tools"))
        else:
            yield text_of(tool.get("name")) or text_of(tool.get("type"))


def _read_user(content: Any, transcript: Transcript) -> None:
    texts = [content] if isinstance(content, str) else []
    texts += [text_of(part.get("text")) for part in objects(content)]
    for text in texts:
        if not text.startswith(_AGENTS_MD):
            transcript.user(text)


def _output_text(output: Any) -> str:
    if isinstance(output, str):
        return output
    return "".join(text_of(part.get("text")) for part in objects(output))


def _items(conversation: Conversation, answer: Answer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if answer.reasoning:
        summary = [{"type": "summary_text", "text": answer.reasoning}]
        sealed = "aHV0Y2ggb2ZmbGluZSBtb2RlbA=="  # opaque to the client: it only sends it back
        items.append(
            {
                "type": "reasoning",
                "id": new_id("rs_"),
                "summary": summary,
                "encrypted_content": sealed,
            }
        )
    call = _call(answer.action, conversation.tools) if answer.action else None
    if call is not None:
        items.append(call)
        return items
    text = no_tool(conversation.tools) if answer.action else answer.text
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    message = {"type": "message", "role": "assistant", "status": "completed", "content": content}
    items.append({"id": new_id("msg_"), **message})
    return items


def _call(action: Action, tools: frozenset[str]) -> dict[str, Any] | None:
    """A call of whichever shell tool this model and version were given."""
    ids = {"call_id": new_id("call_"), "status": "completed"}
    if isinstance(action, CallTool):
        if "exec" not in tools:
            return None
        given = json.dumps(action.arguments)
        code = f"text(await tools.mcp__{action.server}__{action.tool}({given}))"
        item = {"type": "custom_tool_call", "id": new_id("ctc_"), "name": "exec", "input": code}
        return {**item, **ids}
    command = shell_command(action)
    if "exec" in tools:
        code = f"text((await tools.exec_command({json.dumps({'cmd': command})})).output)"
        item = {"type": "custom_tool_call", "id": new_id("ctc_"), "name": "exec", "input": code}
        return {**item, **ids}
    functions: dict[str, dict[str, Any]] = {
        "exec_command": {"cmd": command},
        "shell_command": {"command": command},
        "shell": {"command": ["bash", "-lc", command]},
    }
    for name, arguments in functions.items():
        if name in tools:
            item = {"type": "function_call", "id": new_id("fc_"), "name": name}
            return {**item, "arguments": json.dumps(arguments), **ids}
    return None


def _reasoning_events(index: int, item: dict[str, Any]) -> list[dict[str, Any]]:
    place = {"item_id": item["id"], "output_index": index, "summary_index": 0}
    part = item["summary"][0]
    start = "response.reasoning_summary_part"
    text = "response.reasoning_summary_text"
    return [
        {
            "type": "response.output_item.added",
            "output_index": index,
            "item": {**item, "summary": []},
        },
        {"type": f"{start}.added", **place, "part": {**part, "text": ""}},
        {"type": f"{text}.delta", **place, "delta": part["text"]},
        {"type": f"{text}.done", **place, "text": part["text"]},
        {"type": f"{start}.done", **place, "part": part},
        _done(index, item),
    ]


def _message_events(
    index: int, item: dict[str, Any], answer: Answer
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    place = {"item_id": item["id"], "output_index": index, "content_index": 0}
    part = item["content"][0]
    empty = {**item, "status": "in_progress", "content": []}
    before: list[dict[str, Any]] = [
        {"type": "response.output_item.added", "output_index": index, "item": empty},
        {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
    ]
    deltas = [
        {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
        for piece in answer.pieces or (part["text"],)
    ]
    after: list[dict[str, Any]] = [
        {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
        _done(index, item),
    ]
    return before, deltas, after


def _done(index: int, item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def _response(
    response_id: str,
    conversation: Conversation,
    status: str,
    answer: Answer | None,
    output: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "model": conversation.model,
        "output": output,
        "error": None,
        "incomplete_details": None,
        "parallel_tool_calls": False,
        "usage": _usage(conversation, answer) if answer else None,
    }


def _usage(conversation: Conversation, answer: Answer) -> dict[str, Any]:
    thought = estimate_tokens(len(answer.reasoning)) if answer.reasoning else 0
    return {
        "input_tokens": conversation.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": conversation.input_tokens + answer.output_tokens,
    }
