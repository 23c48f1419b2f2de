"""The runtime's settings: environment variables that the orchestrator sets at creation."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from hutch_runtime.home import Home
from hutch_runtime.identity import Identity
from hutch_runtime.protocol import PROVIDERS, Provider
from hutch_runtime.providers.base import Setup

# What of our environment an agent sees; the rest, all HUTCH_* included, is none of its business.
_PASSED_ON: Final = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER")
_UNKNOWN: Final = "unknown"


class SettingsError(ValueError):
    """An environment variable is missing or wrong; the text names it."""


@dataclass(frozen=True, slots=True)
class Settings:
    key_sha256: bytes
    gateway_url: str
    placeholder_key: str
    prewarm: tuple[Provider, ...]
    agent_idle_s: float
    agent_pids: int
    host: str
    port: int
    workspace: Path
    home: Path
    versions: Mapping[str, str]  # of each provider's CLI and of the runtime
    cli: Mapping[Provider, tuple[str, ...]]
    agent_environment: Mapping[str, str]
    rehearse: bool
    # Names of the accounts that the runtime and the agents have here; none: they share ours.
    accounts: tuple[str, str] | None = None
    identity: Identity = field(default_factory=Identity)

    def setup(self, provider: Provider) -> Setup:
        return Setup(
            argv=self.cli[provider],
            workspace=self.workspace,
            home=Home(self.home, self.identity),
            gateway_url=self.gateway_url,
            placeholder_key=self.placeholder_key,
            environment=self.agent_environment,
            rehearse=self.rehearse,
            identity=self.identity,
        )


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Raises ``SettingsError``."""
    env = os.environ if environ is None else environ
    passed_on = {name: env[name] for name in _PASSED_ON if name in env}
    passed_on.setdefault("LANG", "C.UTF-8")
    return Settings(
        key_sha256=_digest(env, "HUTCH_RUNTIME_KEY_SHA256"),
        gateway_url=_url(env, "HUTCH_GATEWAY_URL"),
        placeholder_key=_required(env, "HUTCH_PLACEHOLDER_KEY"),
        prewarm=_providers(env, "HUTCH_PREWARM"),
        agent_idle_s=_number(env, "HUTCH_AGENT_IDLE_S", 900),
        agent_pids=int(_number(env, "HUTCH_AGENT_PIDS", 256)),
        host=env.get("HUTCH_RUNTIME_HOST", "0.0.0.0"),  # noqa: S104 - the sandbox's own network
        port=int(_number(env, "HUTCH_RUNTIME_PORT", 3000)),
        workspace=Path(env.get("HUTCH_WORKSPACE", "/workspace")),
        home=Path(_required(env, "HOME")),
        versions=_versions(Path(env.get("HUTCH_VERSIONS_FILE", "/opt/hutch/versions.json"))),
        cli={
            name: tuple(shlex.split(env.get(f"HUTCH_CLI_{name.upper()}", ""))) or (name,)
            for name in PROVIDERS
        },
        agent_environment=passed_on,
        rehearse=env.get("HUTCH_REHEARSE") == "1",
        accounts=_accounts(env),
    )


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "")
    if not value:
        raise SettingsError(f"{name} is not set")
    return value


def _digest(env: Mapping[str, str], name: str) -> bytes:
    value = _required(env, name)
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise SettingsError(f"{name} is not a SHA-256 in hexadecimal")
    return bytes.fromhex(value)


def _url(env: Mapping[str, str], name: str) -> str:
    value = _required(env, name).rstrip("/")
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SettingsError(f"{name} is not an http URL")
    return value


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(env.get(name, default))
    except ValueError:
        raise SettingsError(f"{name} is not a number") from None
    if not 0 <= value < 2**31:
        raise SettingsError(f"{name} is out of range")
    return value


def _accounts(env: Mapping[str, str]) -> tuple[str, str] | None:
    """The image names them; nothing else does."""
    given = env.get("HUTCH_RUNTIME_ACCOUNT", ""), env.get("HUTCH_AGENTS_ACCOUNT", "")
    return given if all(given) else None


def _providers(env: Mapping[str, str], name: str) -> tuple[Provider, ...]:
    given = [part.strip() for part in env.get(name, "").split(",") if part.strip()]
    if unknown := [part for part in given if part not in PROVIDERS]:
        raise SettingsError(f"{name} names {unknown[0]!r}; there are {', '.join(PROVIDERS)}")
    return tuple(provider for provider in PROVIDERS if provider in given)


def _versions(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        found = {}
    found = found if isinstance(found, dict) else {}
    return {name: str(found.get(name, _UNKNOWN)) for name in (*PROVIDERS, "runtime")}
