"""LiteLLM, as a client of an endpoint that speaks OpenAI's protocol."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import litellm

litellm.suppress_debug_info = True  # advertisements on standard output


def chat(prompt: str, **options: Any) -> Any:
    asked = {
        "model": "openai/codex",
        "messages": [{"role": "user", "content": prompt}],
        "api_base": f"{os.environ['HUTCH_URL']}/v1",
        "api_key": os.environ["HUTCH_API_KEY"],
        **options,
    }
    return litellm.completion(**asked)


def streamed() -> dict[str, Any]:
    text, usage = "", None
    for chunk in chat("by litellm", stream=True, stream_options={"include_usage": True}):
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = getattr(chunk, "usage", None) or usage
    assert usage is not None
    return {"text": text, "usage": usage.model_dump()}


def refused(ask: Callable[[], Any]) -> dict[str, Any]:
    try:
        ask()
    except litellm.exceptions.APIError as error:
        return {"as": type(error).__name__, "status": error.status_code}
    except litellm.exceptions.openai.APIStatusError as error:
        return {"as": type(error).__name__, "status": error.status_code}
    raise AssertionError("it was answered")


def main() -> None:
    whole = chat("[[tool:shell echo whole]]")
    named = {"extra_headers": {"x-hutch-session": "of litellm"}}
    seen = {
        "whole": whole.model_dump(),
        "named": [
            chat(prompt, **named).choices[0].message.content
            for prompt in ("first of the name", "[[recall]]")
        ],
        "streamed": streamed(),
        "refused": [
            refused(lambda: chat("x", api_key="hutch_user_wrong")),
            refused(lambda: chat("x", model="openai/llama")),
            refused(lambda: chat("x", n=2)),
            refused(lambda: chat("[[status:429]] of litellm")),
        ],
    }
    json.dump(seen, sys.stdout)


main()
