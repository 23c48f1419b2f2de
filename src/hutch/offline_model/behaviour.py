"""What the offline model answers: an echo, and what magic words in the user's text ask for.

================================  =================================================================
word                              effect
================================  =================================================================
``[[recall]]``                    list the earlier user texts of the conversation
``[[tool:write PATH CONTENT]]``   call a tool that writes the file, answer after its result
``[[tool:shell COMMAND]]``        call the shell tool, answer after its result
``[[tool:mcp SERVER TOOL JSON]]``   call a tool of that MCP server with these arguments
``[[reasoning]]``                 reasoning before the answer
``[[text:N]]``                    an answer of exactly N bytes (at most 16 MB)
``[[slow:N,MS]]``                 N more tokens, MS milliseconds apart
``[[hang]]``                      the first event, then nothing for ten minutes
``[[status:N]]``                  HTTP error N in the provider's own shape
================================  =================================================================

Where the answer has to fit a JSON schema, and no word is there, it is the smallest value that does.
A word ends at the first ``]]``. Words act in the last user text only, and not again once a tool
result has come back for it. ``POST /_control/behaviour`` asks for the same from outside.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from hutch.offline_model.conversation import Conversation, estimate_tokens, sample

LABEL: Final = "Hutch offline model (not a real model)"
HANG_S: Final = 600.0  # longer than any client waits, yet an end
MAX_TEXT_BYTES: Final = 16 * 1024 * 1024
MAX_TOKENS: Final = 10_000
MAX_PAUSE_MS: Final = 60_000
# Small enough that an echo comes in several deltas, large enough that 16 MB is not a million.
PIECE_CHARS: Final = 64
LARGE_PIECE_CHARS: Final = 4096

_WORD: Final = re.compile(r"\[\[([a-z]+)(?::(.*?))?\]\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class WriteFile:
    path: str
    content: str


@dataclass(frozen=True, slots=True)
class Shell:
    command: str


@dataclass(frozen=True, slots=True)
class CallTool:
    """One of an MCP server's."""

    server: str
    tool: str
    arguments: Mapping[str, Any]


Action: TypeAlias = WriteFile | Shell | CallTool


@dataclass(frozen=True, slots=True)
class Slow:
    tokens: int
    pause_ms: int


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for, by magic words or from outside."""

    status: int | None = None
    slow: Slow | None = None
    hang: bool = False
    recall: bool = False
    reasoning: bool = False
    text_bytes: int | None = None
    action: Action | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    key_fingerprint: str
    peer: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say, before a protocol gives it a shape. ``pieces`` is empty if a tool is called."""

    pieces: tuple[str, ...]
    pause_s: float = 0.0
    reasoning: str = ""
    action: Action | None = None
    hang: bool = False
    fits: bool = False  # it is the JSON that the turn was asked for

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def output_tokens(self) -> int:
        return estimate_tokens(len(self.text) + len(self.reasoning))


def fingerprint(key: str) -> str:
    """Enough of a key's hash to tell two keys apart in a test; ``none`` if there is no key."""
    return hashlib.sha256(key.encode()).hexdigest()[:8] if key else "none"


def digest(text: str) -> str:
    # JSON may carry half a surrogate pair, which has no UTF-8 of its own.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def wish_of(conversation: Conversation) -> Wish:
    """The magic words that still have to act."""
    if conversation.kind == "side" or conversation.tool_result is not None:
        return Wish()
    words: dict[str, str] = dict(_WORD.findall(conversation.last_text))
    slow = _numbers(words.get("slow", ""), 2)
    status = _numbers(words.get("status", ""), 1)
    size = _numbers(words.get("text", ""), 1)
    return Wish(
        status=status[0] if status and 400 <= status[0] <= 599 else None,
        slow=Slow(min(slow[0], MAX_TOKENS), min(slow[1], MAX_PAUSE_MS)) if slow else None,
        hang="hang" in words,
        recall="recall" in words,
        reasoning="reasoning" in words,
        text_bytes=min(size[0], MAX_TEXT_BYTES) if size else None,
        action=_action(words.get("tool", "")),
    )


def answer(conversation: Conversation, wish: Wish, caller: Caller) -> Answer:
    if conversation.kind == "side":
        short = LABEL
        if conversation.schema is not None:
            short = json.dumps(sample(conversation.schema))
        return Answer(pieces=(short,))
    if conversation.schema is not None and wish == Wish():
        return Answer(pieces=(json.dumps(sample(conversation.schema)),), fits=True)
    reasoning = f"{LABEL}: no thought went into this." if wish.reasoning else ""
    if wish.action is not None and not wish.hang:
        return Answer(pieces=(), reasoning=reasoning, action=wish.action)
    text = _echo(conversation, wish, caller)
    if wish.text_bytes is not None:
        filler = "0123456789" * (wish.text_bytes // 10 + 1)
        padded = f"{text} {filler}".encode(errors="replace")[: wish.text_bytes]
        text = padded.decode(errors="ignore")
        text += "." * (wish.text_bytes - len(text.encode()))  # a character may have been cut
    if wish.slow is None:
        pieces = _pieces(text)
    else:  # the echo in one piece, so that N tokens take N pauses
        pieces = (text, *(f" token{number}" for number in range(1, wish.slow.tokens + 1)))
    pause_s = wish.slow.pause_ms / 1000 if wish.slow is not None else 0.0
    return Answer(pieces=pieces, pause_s=pause_s, reasoning=reasoning, hang=wish.hang)


def _echo(conversation: Conversation, wish: Wish, caller: Caller) -> str:
    said = conversation.last_text
    text = (
        f'{LABEL}: you said "{said[:200]}". key={caller.key_fingerprint} peer={caller.peer} '
        f"chars={len(said)} sha256={digest(said)}"
    )
    if wish.recall:
        # Claude Code ends texts with a newline where it merges messages after an interruption.
        earlier = [text[:100].rstrip("\n") for text in conversation.user_texts[:-1]]
        text += f" earlier={json.dumps(earlier, ensure_ascii=False)}"
    if conversation.tool_result is not None:
        text += f" tool_result={json.dumps(conversation.tool_result[:200], ensure_ascii=False)}"
    return text


def _pieces(text: str) -> tuple[str, ...]:
    size = PIECE_CHARS if len(text) <= LARGE_PIECE_CHARS else LARGE_PIECE_CHARS
    return tuple(text[start : start + size] for start in range(0, len(text), size))


def _numbers(argument: str, count: int) -> tuple[int, ...] | None:
    parts = [part.strip() for part in argument.split(",")]
    if len(parts) != count or not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
        return None
    return tuple(int(part) for part in parts)


def _action(argument: str) -> Action | None:
    kind, _, rest = argument.partition(" ")
    if kind == "shell" and rest.strip():
        return Shell(rest)
    if kind == "write":
        path, _, content = rest.partition(" ")
        return WriteFile(path, content) if path else None
    return _tool_call(rest) if kind == "mcp" else None


def _tool_call(argument: str) -> CallTool | None:
    server, _, rest = argument.partition(" ")
    tool, _, arguments = rest.partition(" ")
    try:
        given = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return None
    return CallTool(server, tool, given) if tool and isinstance(given, dict) else None
