"""Texts that a user may have to accept. Another text is another version, to be accepted anew."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hutch.errors import HostNotReady

AGREEMENT: Final = "user_agreement"  # the operator's own
CLAUDE_SESSION_TOKEN: Final = "claude_session_token"  # noqa: S105  a document's name
_SIZE_MAX: Final = 256 * 1024  # bytes
_CLAUDE_TEXT: Final = """\
Before you store a Claude session token

Anthropic's terms say that developers may not collect, store, or intermediate Claude.ai credentials
or session tokens, and that sign-in must complete through Anthropic's own flow. A session token that
you store here is such a credential. An API key is not: it is the normal way, and needs no consent.

By accepting you say that
1. the token is your own, made by you with `claude setup-token` for your own plan;
2. you know of that rule, and that Anthropic may limit or end your account because of it;
3. you ask the operator of this service to keep the token, encrypted, and to send it to Anthropic
   with the requests of your own agents, and with no others;
4. you can delete it here at any time, and will revoke it at Anthropic when you no longer want it
   used.
"""


@dataclass(frozen=True, slots=True)
class Document:
    name: str
    text: str
    required: bool  # before the first run

    @property
    def version(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]


def documents(agreement_file: Path | None, *, claude_session_tokens: bool) -> list[Document]:
    """Those of this installation. Reads the file; raises ``HostNotReady``."""
    found = []
    if agreement_file is not None:
        found.append(Document(AGREEMENT, _read(agreement_file), required=True))
    if claude_session_tokens:
        found.append(Document(CLAUDE_SESSION_TOKEN, _CLAUDE_TEXT, required=False))
    return found


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_SIZE_MAX + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise HostNotReady(
            f"The user agreement {path} cannot be read: {type(error).__name__}.",
            hint="HUTCH_AGREEMENT_FILE names a text file in UTF-8.",
        ) from None
    if not text.strip() or len(content) > _SIZE_MAX:
        raise HostNotReady(
            f"The user agreement {path} is empty, or has more than {_SIZE_MAX // 1024} KB.",
            hint="HUTCH_AGREEMENT_FILE names a text that people can read.",
        )
    return text
