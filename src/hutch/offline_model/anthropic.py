"""Anthropic Messages, as Claude Code 2.1.330 uses it (recorded from the real CLI)."""

from __future__ import annotations

import json
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
from hutch.offline_model.wire import Script, named_event, new_id, no_tool, shell_command

_HAND_IN: Final = "StructuredOutput"
_WRAPPERS: Final = ("system-reminder", "local-command-caveat")
# What Claude Code puts into the conversation itself when a turn was interrupted.
_INTERRUPTED: Final = (
    "[Request interrupted by user]",
    "[Request interrupted by user for tool use]",
)

_ERROR_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class AnthropicMessages:
    def parse(self, body: Mapping[str, Any], *, model: str, stream: bool) -> Conversation:
        if not isinstance(body.get("messages"), list):
            raise Malformed("messages: Field required")
        transcript = Transcript(_WRAPPERS)
        for message in objects(body["messages"]):
            if message.get("role") == "user":
                _read_user(message.get("content"), transcript)
        tools = frozenset(text_of(tool.get("name")) for tool in objects(body.get("tools")))
        probe = body.get("max_tokens") == 1
        return Conversation(
            model=text_of(body.get("model")) or model,
            stream=stream or body.get("stream") is True,
            kind="side" if probe or (body.get("system") and not tools) else "turn",
            user_texts=tuple(transcript.user_texts),
            tools=tools,
            tool_result=transcript.tool_result,
            schema=_schema(body, handed_in=transcript.tool_result is not None),
            input_tokens=estimate_tokens(len(str(body))),
        )

    def whole(self, conversation: Conversation, answer: Answer) -> dict[str, Any]:
        content = _blocks(conversation, answer)
        return {
            **_message(conversation),
            "content": content,
            "stop_reason": _stop_reason(content),
            "usage": _usage(conversation, answer.output_tokens),
        }

    def script(self, conversation: Conversation, answer: Answer) -> Script:
        message = {**_message(conversation), "usage": _usage(conversation, 1)}
        opening: list[dict[str, Any]] = [
            {"type": "message_start", "message": message},
            {"type": "ping"},
        ]
        pieces: list[dict[str, Any]] = []
        closing: list[dict[str, Any]] = []
        blocks = _blocks(conversation, answer)
        for index, block in enumerate(blocks):
            match block["type"]:
                case "thinking":
                    opening += _thinking(index, block)
                case "text":
                    opening.append(_start(index, {"type": "text", "text": ""}))
                    texts = answer.pieces or (block["text"],)
                    pieces += [_delta(index, type="text_delta", text=text) for text in texts]
                    closing.append({"type": "content_block_stop", "index": index})
                case "tool_use":
                    closing += _tool_use(index, block)
        closing += [
            {
                "type": "message_delta",
                "delta": {"stop_reason": _stop_reason(blocks), "stop_sequence": None},
                "usage": {"output_tokens": answer.output_tokens},
            },
            {"type": "message_stop"},
        ]
        return Script(
            tuple(map(named_event, opening)),
            tuple(map(named_event, pieces)),
            tuple(map(named_event, closing)),
        )

    def error(self, status: int, message: str) -> tuple[int, dict[str, Any]]:
        error = {"type": _ERROR_TYPES.get(status, "api_error"), "message": message}
        return status, {"type": "error", "error": error, "request_id": new_id("req_")}

    def count(self, tokens: int) -> dict[str, Any]:
        return {"input_tokens": tokens}


def _read_user(content: Any, transcript: Transcript) -> None:
    if isinstance(content, str):
        transcript.user(content)
    for block in objects(content):
        text = text_of(block.get("text"))
        if block.get("type") == "text" and text.strip() not in _INTERRUPTED:
            transcript.user(text)
        elif block.get("type") == "tool_result":
            parts = block.get("content")
            texts = [text_of(part.get("text")) for part in objects(parts)]
            transcript.result(parts if isinstance(parts, str) else "".join(texts))


def _schema(body: Mapping[str, Any], *, handed_in: bool) -> Mapping[str, Any] | None:
    """Where the JSON schema of an answer is: ``output_config.format``, once ``output_format``; for
    a turn of Claude Code's, until it is ``handed_in``, a tool's.
    """
    for tool in objects(body.get("tools")):
        if tool.get("name") == _HAND_IN:
            schema = tool.get("input_schema")
            return schema if isinstance(schema, dict) and not handed_in else None
    config = body.get("output_config")
    wanted = config.get("format") if isinstance(config, dict) else body.get("output_format")
    schema = wanted.get("schema") if isinstance(wanted, dict) else None
    return schema if isinstance(schema, dict) else None


def _blocks(conversation: Conversation, answer: Answer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.reasoning:
        # Real signatures are opaque to the client too: it only sends them back.
        thinking = {"thinking": answer.reasoning, "signature": "aHV0Y2ggb2ZmbGluZSBtb2RlbA=="}
        blocks.append({"type": "thinking", **thinking})
    if answer.fits and _HAND_IN in conversation.tools:
        given = {"name": _HAND_IN, "input": json.loads(answer.text)}
        blocks.append({"type": "tool_use", "id": new_id("toolu_"), **given})
    elif answer.action is None:
        blocks.append({"type": "text", "text": answer.text})
    elif (call := _call(answer.action, conversation.tools)) is not None:
        blocks.append({"type": "tool_use", "id": new_id("toolu_"), **call})
    else:
        blocks.append({"type": "text", "text": no_tool(conversation.tools)})
    return blocks


def _call(action: Action, tools: frozenset[str]) -> dict[str, Any] | None:
    if isinstance(action, CallTool):
        # Not among the tools: Claude Code tells of them in a text, and gives their schemas later.
        return {"name": f"mcp__{action.server}__{action.tool}", "input": dict(action.arguments)}
    # Write takes absolute paths only.
    if isinstance(action, WriteFile) and "Write" in tools and action.path.startswith("/"):
        return {"name": "Write", "input": {"file_path": action.path, "content": action.content}}
    if "Bash" in tools:
        given = {"command": shell_command(action), "description": "Asked for by a magic word"}
        return {"name": "Bash", "input": given}
    return None


def _message(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": new_id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": conversation.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _usage(conversation: Conversation, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": conversation.input_tokens,
        "output_tokens": output_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def _stop_reason(blocks: list[dict[str, Any]]) -> str:
    return "tool_use" if blocks[-1]["type"] == "tool_use" else "end_turn"


def _start(index: int, block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def _delta(index: int, **delta: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _thinking(index: int, block: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        _start(index, {"type": "thinking", "thinking": "", "signature": ""}),
        _delta(index, type="thinking_delta", thinking=block["thinking"]),
        _delta(index, type="signature_delta", signature=block["signature"]),
        {"type": "content_block_stop", "index": index},
    ]


def _tool_use(index: int, block: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        _start(index, {**block, "input": {}}),
        _delta(index, type="input_json_delta", partial_json=json.dumps(block["input"])),
        {"type": "content_block_stop", "index": index},
    ]
