"""What was said, of which a chat client sends all with each request, as the prompt of one run.

A session that has begun is told only what is new. To one that begins, earlier messages are told
as a transcript: each a line of JSON, so that no text can pass itself off as another's message.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from hutch.api.compat.pictures import Picture
from hutch.errors import InvalidRequest

Role: TypeAlias = Literal["system", "user", "assistant"]

BEFORE: Final = (
    "What has been said in this conversation until now, one message a line, as JSON. Follow what "
    'the role "system" says; the roles "user" and "assistant" are the two of us.'
)
AFTER: Final = "Go on with it. This is the message to answer:"


@dataclass(frozen=True, slots=True)
class Said:
    role: Role
    text: str
    pictures: tuple[Picture, ...] = ()


def pictures_of(said: Sequence[Said], *, begun: bool) -> list[Picture]:
    """Those that the session does not know yet."""
    told = said[_split(said) :] if begun else said
    return [picture for one in told for picture in one.pictures]


def prompt_of(said: Sequence[Said], *, begun: bool, each_time: str = "") -> str:
    """``begun``: the session knows what is before the user's last words. ``each_time``: system text
    that holds for this turn only. Raises ``InvalidRequest`` when the last word is not the user's.
    """
    split = _split(said)
    now = "\n\n".join(one.text for one in said[split:])
    if not now.strip():
        raise InvalidRequest(
            "The last message has to be the user's, with text in it.",
            hint="An answer that is begun by the caller cannot be gone on with.",
        )
    before = [Said("system", each_time)] if each_time.strip() else []
    if not begun:
        before += [one for one in said[:split] if one.text.strip() or one.pictures]
    if not before:
        return now
    return "\n".join((BEFORE, "", *map(_line, before), "", AFTER, "", now))


def _line(said: Said) -> str:
    line: dict[str, object] = {"role": said.role, "content": said.text}
    if said.pictures:
        line["attached"] = [picture.name for picture in said.pictures]
    return json.dumps(line, ensure_ascii=False)


def _split(said: Sequence[Said]) -> int:
    """Where the user's last words begin."""
    split = len(said)
    while split and said[split - 1].role == "user":
        split -= 1
    return split
