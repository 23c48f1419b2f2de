"""Anthropic's package for Python."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import anthropic
from pydantic import BaseModel

# One pixel.
PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "YPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
client = anthropic.Anthropic(base_url=os.environ["HUTCH_URL"], api_key=os.environ["HUTCH_API_KEY"])


def asked(prompt: str, **options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": "claude", "max_tokens": 1000, "messages": messages, **options}


def message(prompt: str, **options: Any) -> Any:
    return client.messages.create(**asked(prompt, **options))


class Person(BaseModel):
    name: str


def formed() -> str:
    parsed = client.messages.parse(**asked("who?"), output_format=Person)
    return str(parsed.parsed_output.name)


def looked_at(prompt: str) -> str:
    source = {"type": "base64", "media_type": "image/png", "data": PICTURE}
    content = [{"type": "image", "source": source}, {"type": "text", "text": prompt}]
    messages = [{"role": "user", "content": content}]
    told = client.messages.create(model="claude", max_tokens=100, messages=messages)
    return str(told.content[0].text)


def streamed() -> dict[str, Any]:
    text, told = "", None
    with client.messages.stream(**asked("[[tool:shell echo by stream]]")) as stream:
        for event in stream:
            text += event.text if event.type == "text" else ""
            if event.type == "message_delta":  # it keeps pings to itself
                told = event.model_extra["hutch"]
        last = stream.get_final_message()
    assert text == "".join(block.text for block in last.content)
    return {"text": text, "hutch": told, "usage": last.usage.to_dict()}


def refused(ask: Callable[[], Any]) -> dict[str, Any]:
    try:
        ask()
    except anthropic.APIStatusError as error:
        body: Any = error.body
        told = {"type": body["error"]["type"], "code": body["error"]["code"]}
        return {"as": type(error).__name__, "status": error.status_code, **told}
    raise AssertionError("it was answered")


stranger = client.with_options(api_key="hutch_user_wrong")
metadata = {"session_id": "of anthropic"}
seen = {
    "whole": message("[[tool:shell echo whole]]", system="Be brief.").to_dict(),
    "named": [
        message(prompt, metadata=metadata).content[0].text
        for prompt in ("first of the name", "[[recall]]")
    ],
    "streamed": streamed(),
    "formed": formed(),
    "looked_at": looked_at("look"),
    "refused": [
        refused(lambda: stranger.messages.create(**asked("x"))),
        refused(lambda: message("x", model="llama")),
        refused(lambda: message("x", stop_sequences=["."])),
        refused(lambda: message("[[status:429]] of anthropic", model="codex")),
        refused(lambda: client.messages.count_tokens(model="claude", messages=[])),
    ],
}
json.dump(seen, sys.stdout)
