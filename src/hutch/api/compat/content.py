"""Messages of a request, as what was said: text only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from hutch.errors import InvalidRequest, UnsupportedParameter

_TEXTS: Final = frozenset({"text", "input_text", "output_text"})
_REFUSED: Final = {
    "image_url": "images are not taken yet",
    "input_image": "images are not taken yet",
    "image": "images are not taken yet",
    "document": "files are not taken yet",
    "file": "files are not taken yet",
    "input_file": "files are not taken yet",
    "input_audio": "audio is not taken",
    "tool_use": "Hutch's agents call tools of their own, not the caller's",
    "tool_result": "Hutch's agents call tools of their own, not the caller's",
}


def text_of(content: Any, *, place: str, passed_over: frozenset[str] = frozenset()) -> str:
    """Of a string, or of a list of parts, an empty line between two. Raises ``InvalidRequest``."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"{place}: neither text nor a list of parts.")
    return "\n\n".join(_texts(content, place, passed_over))


def _texts(parts: Iterable[Any], place: str, passed_over: frozenset[str]) -> Iterable[str]:
    for number, part in enumerate(parts):
        given = part if isinstance(part, Mapping) else {}
        kind, text = str(given.get("type")), given.get("text")
        if kind in passed_over:
            continue
        if kind in _TEXTS and isinstance(text, str):
            yield text
            continue
        raise UnsupportedParameter(
            f"{place}.{number}: {_REFUSED.get(kind, 'it is no part of a message')}.",
            hint="Send text; put other material into the container's files.",
            param=f"{place}.{number}",
        )
