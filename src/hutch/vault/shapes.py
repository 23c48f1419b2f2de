"""Catch a key in the wrong slot while the person who pasted it is still looking.

Shapes are hints, not proof: an unknown shape is accepted (self-hosted endpoints have their own),
a shape that is certainly another provider's is not. Prefixes are from each provider's console.
"""

from __future__ import annotations

from typing import Final

from hutch.errors import CredentialMalformed
from hutch_runtime.protocol import Provider

KEY_MAX: Final = 4096  # characters; a header has to carry it

# The first that matches wins: Anthropic's keys begin like OpenAI's.
_PREFIXES: Final[tuple[tuple[str, Provider, str], ...]] = (
    ("sk-ant-", "claude", "an Anthropic API key"),
    ("sk-", "codex", "an OpenAI API key"),
    ("AIza", "gemini", "a Google AI Studio API key"),
    ("AQ.", "gemini", "a Google AI Studio API key"),
)


def check_api_key(provider: Provider, text: str) -> str:
    """The key without surrounding white space. Raises ``CredentialMalformed``."""
    key = text.strip()
    if not key:
        raise CredentialMalformed("The key is empty.", hint="Paste the whole API key.")
    if len(key) > KEY_MAX:
        raise CredentialMalformed(
            f"The key is longer than {KEY_MAX} characters.",
            hint="Paste the API key alone, not a file around it.",
        )
    if not all(33 <= ord(character) <= 126 for character in key):
        raise CredentialMalformed(
            "The key has a space, a line break or a character that no API key has.",
            hint="Paste the API key alone, in one line.",
        )
    for prefix, owner, what in _PREFIXES:
        if key.startswith(prefix):
            if owner != provider:
                raise CredentialMalformed(
                    f"This looks like {what}, which belongs to `{owner}`, not to `{provider}`.",
                    hint=f"Store it with PUT /v1/credentials/{owner}.",
                )
            break
    return key
