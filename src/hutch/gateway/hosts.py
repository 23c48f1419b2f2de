"""What a sandbox may reach besides its model APIs: sign-in hosts, and the rules of its entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hutch.gateway.names import HTTPS_PORT, matches, written
from hutch.gateway.refusals import Refusal
from hutch.gateway.table import Entry
from hutch_runtime.protocol import Provider

# Where each CLI signs in and renews a login. Seen in the CLIs' own programs and traffic: Claude
# Code 2.1.197, Codex 0.169.0, Gemini CLI 0.61.0.
_SIGN_IN: Final[Mapping[Provider, tuple[str, ...]]] = {
    "claude": ("platform.claude.com", "claude.ai"),
    "codex": ("auth.openai.com", "chatgpt.com"),
    "gemini": ("oauth2.googleapis.com", "accounts.google.com"),
}
# Asked past the base URL by a CLI that has a login of its own (Claude Code: who am I?).
_WITH_LOGIN: Final[Mapping[Provider, tuple[str, ...]]] = {
    "claude": ("api.anthropic.com",),
    "codex": ("api.openai.com",),
    "gemini": ("cloudcode-pa.googleapis.com",),
}
_ALL_SIGN_IN: Final = frozenset(host for hosts in _SIGN_IN.values() for host in hosts)


def check_allowed(entry: Entry, host: str, port: int) -> None:
    """Raises ``Refusal`` (403) with what to do; ``host`` has to come from ``names.authority``."""
    if entry.user_id is None:
        raise Refusal(403, "this sandbox has no user yet.")
    if any(matches(rule, host, port) for rule in entry.allow):
        return
    if port == HTTPS_PORT and (host in _ALL_SIGN_IN or host in _with_login(entry)):
        return
    place = written(host, port)
    raise Refusal(
        403,
        f"{place} is not on the list of allowed hosts. Allow it for yourself with "
        f'PUT /v1/network {{"allow": ["{place}"]}}, or for everyone with HUTCH_EGRESS_ALLOW.',
    )


def _with_login(entry: Entry) -> frozenset[str]:
    return frozenset(
        host
        for provider, route in entry.routes.items()
        if route.own_credential
        for host in _WITH_LOGIN[provider]
    )
