"""Messages of a request, as what was said: text, and the images of users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from hutch.api.compat.conversation import Role, Said
from hutch.api.compat.pictures import KINDS, Picture, picture_of
from hutch.errors import InvalidRequest, UnsupportedParameter

_TEXTS: Final = frozenset({"text", "input_text", "output_text"})
_WHOSE: Final = "images are taken in messages of the user only"
_REFUSED: Final = {
    "image_url": _WHOSE,
    "input_image": _WHOSE,
    "image": _WHOSE,
    "document": "files are not taken yet",
    "file": "files are not taken yet",
    "input_file": "files are not taken yet",
    "input_audio": "audio is not taken",
    "tool_use": "Hutch's agents call tools of their own, not the caller's",
    "tool_result": "Hutch's agents call tools of their own, not the caller's",
}


def said_of(
    role: Role, content: Any, *, place: str, passed_over: frozenset[str] = frozenset()
) -> Said:
    """Out of a string, or of a list of parts, an empty line between two of text. Raises
    ``InvalidRequest``.
    """
    parts = list(_parts(content, place, passed_over, pictures=role == "user"))
    texts = [part for part in parts if isinstance(part, str)]
    pictures = tuple(part for part in parts if isinstance(part, Picture))
    return Said(role, "\n\n".join(texts), pictures)


def _parts(
    content: Any, place: str, passed_over: frozenset[str], *, pictures: bool
) -> Iterator[str | Picture]:
    if content is None:
        return
    if isinstance(content, str):
        yield content
        return
    if not isinstance(content, list):
        raise InvalidRequest(f"{place}: neither text nor a list of parts.")
    for number, part in enumerate(content):
        given = part if isinstance(part, Mapping) else {}
        kind, text = str(given.get("type")), given.get("text")
        if kind in passed_over:
            continue
        if kind in _TEXTS and isinstance(text, str):
            yield text
        elif kind in KINDS and pictures:
            yield picture_of(given, place=f"{place}.{number}")
        else:
            raise UnsupportedParameter(
                f"{place}.{number}: {_REFUSED.get(kind, 'it is no part of a message')}.",
                hint="Send text and images; put other material into the container's files.",
                param=f"{place}.{number}",
            )
