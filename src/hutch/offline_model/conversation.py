"""What a request says, whichever protocol it came in."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

# turn: a user's prompt, or the tool result that follows one. side: what a CLI asks on its own
# account (titles, routing, quota probes), where a magic word in quoted text must do nothing.
Kind: TypeAlias = Literal["turn", "side"]


class Malformed(Exception):
    """The request is not one that the protocol allows; the text is safe to send back."""


@dataclass(frozen=True, slots=True)
class Conversation:
    model: str
    stream: bool
    kind: Kind
    user_texts: tuple[str, ...]  # oldest first, what the CLI wrapped around them left out
    tools: frozenset[str]
    # What came back for a tool call made after the last user text, if one did.
    tool_result: str | None
    # The JSON schema that the answer has to fit, if one was given.
    schema: Mapping[str, Any] | None
    input_tokens: int

    @property
    def last_text(self) -> str:
        return self.user_texts[-1] if self.user_texts else ""


class Transcript:
    """Collects user texts and tool results in the order in which they were said."""

    def __init__(self, wrappers: Collection[str]) -> None:
        names = "|".join(map(re.escape, wrappers))
        self._wrapper = re.compile(rf"\s*<({names})\b[^>]*>.*</\1>\s*", re.DOTALL)
        self.user_texts: list[str] = []
        self.tool_result: str | None = None

    def user(self, text: str) -> None:
        """Add a text of the user's, unless the CLI itself wrote it (one of the wrapper tags)."""
        if text and not self._wrapper.fullmatch(text):
            self.user_texts.append(text)
            self.tool_result = None

    def result(self, value: Any) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        self.tool_result = (self.tool_result or "") + text


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list from outside; anything else is left out."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else ""


def estimate_tokens(characters: int) -> int:
    """Four characters a token, never zero: a bill of nothing would hide a lost usage field."""
    return max(1, characters // 4)


def sample(schema: Any) -> Any:
    """The smallest value that a JSON schema allows, near enough for what the CLIs ask."""
    if not isinstance(schema, dict):
        return None
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    match text_of(schema.get("type")).lower():
        case "object":
            properties = schema.get("properties")
            fields = properties if isinstance(properties, dict) else {}
            return {name: sample(field) for name, field in fields.items()}
        case "array":
            return []
        case "integer" | "number":
            return 1
        case "boolean":
            return False
        case _:
            return "Hutch offline model"
