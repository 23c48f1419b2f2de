"""Catch a credential in the wrong slot while the person who pasted it is still looking.

Shapes are hints, not proof: an unknown shape is accepted (self-hosted endpoints have their own),
one that is certainly something else is not. Prefixes are from each provider's console.
"""

from __future__ import annotations

import json
from typing import Any, Final

from hutch.errors import CredentialMalformed
from hutch_runtime.protocol import Provider

KEY_MAX: Final = 4096  # characters; a header has to carry it
AUTH_JSON_MAX: Final = 64 * 1024  # bytes; a real one has about 5 kB

_SESSION_TOKEN: Final = "sk-ant-oat"  # noqa: S105  a prefix, no secret
# The first that matches wins: Anthropic's keys begin like OpenAI's.
_KEYS: Final[tuple[tuple[str, Provider, str], ...]] = (
    ("sk-ant-", "claude", "an Anthropic API key"),
    ("sk-", "codex", "an OpenAI API key"),
    ("AIza", "gemini", "a Google AI Studio API key"),
    ("AQ.", "gemini", "a Google AI Studio API key"),
)
# What people paste for an API key, and no API takes as one.
_NO_KEYS: Final[tuple[tuple[str, str, str], ...]] = (
    (
        _SESSION_TOKEN,
        "a Claude session token",
        'Where the operator allows it, give it as {"kind": "session_token", "session_token": …}.',
    ),
    (
        "sk-ant-ort",
        "the refresh token of a Claude login",
        "Sign in with `hutch login claude`, or make an API key at https://console.anthropic.com.",
    ),
    (
        "sk-ant-sid",
        "a cookie of claude.ai, which opens your whole account",
        "Give it to nobody. Make an API key at https://console.anthropic.com.",
    ),
    (
        "sk-ant-admin",
        "an Anthropic admin key, which manages an organisation and cannot ask a model",
        "Make an ordinary API key at https://console.anthropic.com.",
    ),
    (
        "eyJ",
        "an access token, which expires within hours",
        "Paste an API key, or for a ChatGPT login the whole auth.json with the kind `chatgpt`.",
    ),
    (
        "ya29.",
        "a Google access token, which expires within the hour",
        "Make an API key at https://aistudio.google.com.",
    ),
    (
        "{",
        "a JSON file",
        "Paste the key alone. The auth.json of Codex goes with the kind `chatgpt`.",
    ),
)


def check_api_key(provider: Provider, text: str) -> str:
    """The key without surrounding white space. Raises ``CredentialMalformed``."""
    key = text.strip()
    for prefix, what, hint in _NO_KEYS:
        if key.startswith(prefix):
            raise CredentialMalformed(f"This looks like {what}; it is no API key.", hint=hint)
    _check_line(key, "API key")
    for prefix, owner, what in _KEYS:
        if key.startswith(prefix):
            if owner != provider:
                raise CredentialMalformed(
                    f"This looks like {what}, which belongs to `{owner}`, not to `{provider}`.",
                    hint=f"Store it with PUT /v1/credentials/{owner}.",
                )
            break
    return key


def check_session_token(provider: Provider, text: str) -> str:
    """The token without surrounding white space. Raises ``CredentialMalformed``."""
    if provider != "claude":
        raise CredentialMalformed(
            f"There is no session token for `{provider}`.",
            hint="`codex` takes api_key and chatgpt, `gemini` takes api_key.",
        )
    token = text.strip()
    _check_line(token, "session token")
    if not token.startswith(_SESSION_TOKEN):
        raise CredentialMalformed(
            "This is no Claude session token: those begin with sk-ant-oat.",
            hint='An API key goes with {"kind": "api_key", "api_key": …}; `claude setup-token` '
            "makes a session token.",
        )
    return token


def check_auth_json(provider: Provider, text: str) -> str:
    """The text of Codex's auth.json as it is. Raises ``CredentialMalformed``."""
    if provider != "codex":
        raise CredentialMalformed(
            f"A ChatGPT login belongs to `codex`, not to `{provider}`.",
            hint="Store it with PUT /v1/credentials/codex.",
        )
    again = "Run `codex login` and give the whole ~/.codex/auth.json, or use `hutch login codex`."
    if len(text.encode("utf-8", "surrogatepass")) > AUTH_JSON_MAX:
        raise CredentialMalformed(
            f"auth.json is larger than {AUTH_JSON_MAX // 1024} KB.", hint=again
        )
    try:
        content: Any = json.loads(text)
        text.encode()
    except (ValueError, RecursionError):  # the parser's own words would quote the file
        raise CredentialMalformed("auth.json is not valid JSON.", hint=again) from None
    tokens = content.get("tokens") if isinstance(content, dict) else None
    if not isinstance(tokens, dict):
        if isinstance(content, dict) and content.get("OPENAI_API_KEY"):
            raise CredentialMalformed(
                "This auth.json holds an API key and no ChatGPT login.",
                hint='Store the key in it with {"kind": "api_key", "api_key": …}.',
            )
        raise CredentialMalformed("auth.json has no `tokens`.", hint=again)
    missing = [
        name
        for name in ("id_token", "access_token", "refresh_token")
        if not (isinstance(tokens.get(name), str) and tokens[name])
    ]
    if missing:
        raise CredentialMalformed(f"The tokens in auth.json lack {', '.join(missing)}.", hint=again)
    return text


def _check_line(text: str, what: str) -> None:
    if not text:
        raise CredentialMalformed(f"The {what} is empty.", hint=f"Paste the whole {what}.")
    if len(text) > KEY_MAX:
        raise CredentialMalformed(
            f"The {what} is longer than {KEY_MAX} characters.",
            hint=f"Paste the {what} alone, not a file around it.",
        )
    if not all(33 <= ord(character) <= 126 for character in text):
        raise CredentialMalformed(
            f"The {what} has a space, a line break or a character that none has.",
            hint=f"Paste the {what} alone, in one line.",
        )
