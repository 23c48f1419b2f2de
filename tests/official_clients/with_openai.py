"""OpenAI's package for Python, on its two protocols."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import openai
from pydantic import BaseModel

# One pixel.
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "YPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
BASE = f"{os.environ['HUTCH_URL']}/v1"
client = openai.OpenAI(base_url=BASE, api_key=os.environ["HUTCH_API_KEY"])


def chat(prompt: str, **options: Any) -> Any:
    messages = [{"role": "user", "content": prompt}]
    return client.chat.completions.create(**{"model": "codex", "messages": messages, **options})


class Person(BaseModel):
    name: str


def formed(model: str) -> list[str]:
    """By both protocols; the client refuses what does not fit."""
    messages: Any = [{"role": "user", "content": "who?"}]
    chatted = client.chat.completions.parse(model=model, messages=messages, response_format=Person)
    responded = client.responses.parse(model=model, input="who?", text_format=Person)
    return [chatted.choices[0].message.parsed.name, responded.output_parsed.name]


def looked_at(prompt: str) -> str:
    image = {"type": "image_url", "image_url": {"url": PICTURE}}
    content = [{"type": "text", "text": prompt}, image]
    told = client.chat.completions.create(
        model="codex", messages=[{"role": "user", "content": content}]
    )
    return str(told.choices[0].message.content)


def streamed_chat() -> dict[str, Any]:
    text, tools, usage = "", [], None
    prompt = "[[tool:shell echo by chat]]"
    for chunk in chat(prompt, stream=True, stream_options={"include_usage": True}):
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
        event = (chunk.model_extra or {}).get("hutch", {}).get("event", {})
        tools += [event["type"]] if "tool_id" in event else []
    assert usage is not None
    return {"text": text, "tools": tools, "usage": usage.to_dict()}


def streamed_response() -> dict[str, Any]:
    tools = []
    with client.responses.stream(model="codex", input="[[tool:shell echo by response]]") as stream:
        for event in stream:
            told = (event.model_extra or {}).get("hutch", {}).get("event", {})
            tools += [told["type"]] if "tool_id" in told else []
        last = stream.get_final_response()
    return {"text": last.output_text, "tools": tools, "status": last.status}


def refused(ask: Callable[[], Any]) -> dict[str, Any]:
    try:
        ask()
    except openai.APIStatusError as error:
        return {"as": type(error).__name__, "status": error.status_code, "code": error.code}
    raise AssertionError("it was answered")


whole = chat("[[tool:shell echo whole]]")
session = whole.model_extra["hutch"]["session_id"]
response = client.responses.create(model="codex", input="in a response")
stranger = client.with_options(api_key="hutch_user_wrong")
seen = {
    "models": [model.id for model in client.models.list()],
    "whole": whole.to_dict(),
    "by_user": chat("[[recall]] by user", user=session).choices[0].message.content,
    "named": [
        chat(prompt, metadata={"session_id": "of python"}).choices[0].message.content
        for prompt in ("first of the name", "[[recall]]")
    ],
    "streamed": streamed_chat(),
    "response": response.to_dict(),
    "response_again": client.responses.retrieve(response.id).output_text,
    "responded_next": client.responses.create(
        model="codex", input="[[recall]]", previous_response_id=response.id
    ).output_text,
    "streamed_response": streamed_response(),
    "formed": formed("codex"),
    "looked_at": looked_at("[[tool:shell ls /workspace/.attachments/*]]"),
    "refused": [
        refused(stranger.models.list),
        refused(lambda: chat("x", model="llama")),
        refused(lambda: chat("x", n=2)),
        refused(lambda: chat("[[status:429]] of python")),
        refused(lambda: client.responses.retrieve("resp_none")),
    ],
}
json.dump(seen, sys.stdout)
