"""The three protocols' requests and answers, as small as they can be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx2

from hutch_runtime.protocol import Provider

KEY = "sk-test-key"

HEADERS: dict[Provider, dict[str, str]] = {
    "claude": {"x-api-key": KEY, "anthropic-version": "2023-06-01"},
    "codex": {"authorization": f"Bearer {KEY}"},
    "gemini": {"x-goog-api-key": KEY},
}

TOOLS: dict[Provider, list[dict[str, Any]]] = {
    "claude": [{"name": "Bash"}],
    "codex": [{"type": "namespace", "tools": [{"type": "custom", "name": "exec"}]}],
    "gemini": [{"functionDeclarations": [{"name": "run_shell_command"}]}],
}


@dataclass
class Asked:
    path: str
    body: dict[str, Any]


def ask(
    provider: Provider,
    *texts: str,
    stream: bool = False,
    system: str = "",
    tools: list[dict[str, Any]] | None = None,
) -> Asked:
    """A request whose history is ``texts``, the user's, with an answer between each two."""
    turns: list[tuple[str, str]] = []
    for text in texts:
        turns += [("user", text), ("model", "an earlier answer")]
    turns.pop()
    body: dict[str, Any]
    match provider:
        case "claude":
            roles = {"user": "user", "model": "assistant"}
            messages = [{"role": roles[role], "content": text} for role, text in turns]
            body = {"model": "m", "max_tokens": 100, "messages": messages, "stream": stream}
            body |= {"system": system} if system else {}
            path = "/v1/messages"
        case "codex":
            items: list[dict[str, Any]] = []
            for role, text in turns:
                kind, name = ("input_text", "user") if role == "user" else ("output_text", role)
                content = [{"type": kind, "text": text}]
                items.append({"type": "message", "role": name, "content": content})
            body = {"model": "m", "input": items, "stream": stream}
            body |= {"instructions": system} if system else {}
            path = "/v1/responses"
        case "gemini":
            contents = [{"role": role, "parts": [{"text": text}]} for role, text in turns]
            body = {"contents": contents}
            body |= {"systemInstruction": {"parts": [{"text": system}]}} if system else {}
            method = "streamGenerateContent?alt=sse" if stream else "generateContent"
            path = f"/v1beta/models/m:{method}"
    if tools is not None:
        body["tools"] = tools
    return Asked(path, body)


def send(http: httpx2.Client, provider: Provider, asked: Asked) -> httpx2.Response:
    return http.post(asked.path, json=asked.body, headers=HEADERS[provider])


def text_of(provider: Provider, answer: dict[str, Any]) -> str:
    """The text in an answer that was not streamed."""
    match provider:
        case "claude":
            parts = [block.get("text", "") for block in answer["content"]]
        case "codex":
            parts = [
                part["text"]
                for item in answer["output"]
                if item["type"] == "message"
                for part in item["content"]
            ]
        case "gemini":
            found = answer["candidates"][0]["content"]["parts"]
            parts = [part.get("text", "") for part in found if not part.get("thought")]
    return "".join(parts)


def events_of(response: httpx2.Response) -> list[dict[str, Any]]:
    return [
        json.loads(line.removeprefix("data: "))
        for line in response.text.splitlines()
        if line.startswith("data: ")
    ]


def streamed_text(provider: Provider, events: list[dict[str, Any]]) -> str:
    match provider:
        case "claude":
            return "".join(event.get("delta", {}).get("text", "") for event in events)
        case "codex":
            kind = "response.output_text.delta"
            return "".join(event["delta"] for event in events if event["type"] == kind)
        case "gemini":
            return "".join(text_of(provider, event) for event in events if "candidates" in event)
