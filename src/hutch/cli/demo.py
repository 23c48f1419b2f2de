"""``hutch demo``: one prompt per provider for a demo user, and a table of what came back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from hutch.cli.printable import printable
from hutch.cli.profile import admin_client, client_with, save_user_key, saved_user_key
from hutch.cli.tables import table
from hutch.client import ApiError, Client
from hutch.config import Settings
from hutch_runtime.protocol import PROVIDERS, Provider

DEMO_USER: Final = "demo"
PROMPT: Final = "In one short sentence: which program are you?"
OFFLINE_KEY: Final = "offline-demo-key"
KEY_VARIABLES: Final[dict[Provider, tuple[str, ...]]] = {
    "claude": ("ANTHROPIC_API_KEY",),
    "codex": ("OPENAI_API_KEY",),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
}
_ANSWER_MAX: Final = 72  # characters of the answer in the table


@dataclass(frozen=True, slots=True)
class Tried:
    provider: Provider
    ok: bool
    cli_version: str
    isolation: str
    container: str
    milliseconds: float
    answer: str


def key_from_environment(provider: Provider) -> str | None:
    """The user's own key, if the environment has one."""
    return next((os.environ[v] for v in KEY_VARIABLES[provider] if os.environ.get(v)), None)


def uses_offline_model(settings: Settings, provider: Provider) -> bool:
    """No key here, and nobody has said where else to send requests."""
    chosen = f"{provider}_base_url" in settings.model_fields_set  # even if it is the default
    return not chosen and key_from_environment(provider) is None


def demo_client(settings: Settings) -> Client:
    """A client as the demo user, who is made if need be; the key is kept for `hutch run`."""
    known = saved_user_key(settings)
    if known is not None:
        client = client_with(settings, known)
        try:
            client.call("GET", "/v1/credentials")
        except ApiError as error:
            if error.code != "unauthorized":
                raise
        else:
            return client
    with admin_client(settings, here=True) as admin:
        demo = next((user.id for user in admin.users() if user.name == DEMO_USER), None)
        key = (admin.create_user(DEMO_USER) if demo is None else admin.create_user_key(demo)).key
    save_user_key(settings, key)
    return client_with(settings, key)


def try_provider(client: Client, provider: Provider) -> Tried:
    """One run. A failure is a row in the table, not an exception."""
    try:
        run = client.run(provider, PROMPT)
        container = client.container()
    except ApiError as error:
        return Tried(provider, False, "", "", "", 0, f"{error.message} ({error.code})")
    ok = run.state == "succeeded"
    return Tried(
        provider=provider,
        ok=ok,
        cli_version=run.cli_version or "",
        isolation=container.isolation or "",
        container=container.id,
        milliseconds=run.timings["total_ms"],
        answer=run.text if ok or run.error is None else f"{run.error.message} ({run.error.code})",
    )


def demo(settings: Settings, console: Console) -> bool:
    """Run it and print the table; True if all three answered."""
    with demo_client(settings) as client:
        have = {credential.provider for credential in client.credentials()}
        for provider in PROVIDERS:
            key = key_from_environment(provider)
            if key is not None:
                client.put_api_key(provider, key)
            elif provider not in have:
                client.put_api_key(provider, OFFLINE_KEY)
        with console.status("Asking each of the three in the demo user's container …"):
            tried = [try_provider(client, provider) for provider in PROVIDERS]
    table(
        ("provider", "CLI", "container", "isolation", "ms", "answer"),
        [_cells(one) for one in tried],
    )
    return all(one.ok for one in tried)


def _cells(one: Tried) -> tuple[Any, ...]:
    answer = " ".join(printable(one.answer).split())
    shown = answer if len(answer) <= _ANSWER_MAX else answer[: _ANSWER_MAX - 1] + "…"
    return (
        one.provider,
        printable(one.cli_version),
        one.container[:12],
        one.isolation,
        f"{one.milliseconds:.0f}",
        Text(shown, style="" if one.ok else "red"),
    )
