"""Settings: environment variables ``HUTCH_*``, each with a default that works on one machine.

``docs/operating.md`` lists all of them, with meanings.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from hutch_runtime.protocol import PermissionMode, Provider

PROVIDER_BASE_URLS: dict[Provider, str] = {
    "claude": "https://api.anthropic.com",
    "codex": "https://api.openai.com",
    "gemini": "https://generativelanguage.googleapis.com",
}
GIT_HOSTS: tuple[str, ...] = (
    "github.com",
    "api.github.com",
    "codeload.github.com",
    "raw.githubusercontent.com",
    "objects.githubusercontent.com",
    "gitlab.com",
    "bitbucket.org",
)


def source_checkout() -> Path | None:
    """The clone that this code runs from, or None when it was installed as a package."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "image").is_dir() else None


def default_data_dir() -> Path:
    root = source_checkout()
    return root / ".hutch" if root else Path.home() / ".local" / "share" / "hutch"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="HUTCH_", extra="ignore")

    data_dir: Path = Field(default_factory=default_data_dir)
    host: str = "127.0.0.1"
    port: int = 8484
    # Where other processes on the same database reach this one; empty: HUTCH_HOST and HUTCH_PORT.
    advertise_url: str = ""
    # Of the API: PEM files, both or neither. Read again when they change.
    tls_cert: Path | None = None
    tls_key: Path | None = None
    # Origins of web pages whose scripts may use the API.
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    # Reverse proxies whose X-Forwarded-For and X-Forwarded-Proto count: addresses or networks.
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    gateway_port: int = 8485
    offline_model_port: int = 8486

    # postgresql://USER:PASSWORD@HOST:PORT/NAME; empty: SQLite, in the data directory.
    database_url: SecretStr = SecretStr("")

    backend: Literal["docker", "process"] = "docker"
    # `process` runs agents on this machine with no isolation at all; see docs/architecture.md.
    insecure_process_backend: bool = False
    # auto: gVisor when the host has it, else runc with a loud warning.
    isolation: Literal["auto", "gvisor", "runc"] = "auto"
    # Attacks on the walls of a sandbox: enforce, before anything is served; warn, afterwards. auto:
    # enforce, unless this is one process on loopback with a database of its own.
    walls: Literal["auto", "enforce", "warn", "off"] = "auto"
    image: str = "hutch-sandbox:latest"
    docker_host: str = "unix:///var/run/docker.sock"
    # The socket of the engine's door; empty: the API speaks to the engine itself, as root.
    engine_door: str = ""
    # Who may open the door's and the gateway's socket besides the user that makes them.
    socket_group: str = ""
    # Where the gateway takes its table from the orchestrator; empty: in the data directory.
    gateway_control: str = ""
    # Eight hex digits; empty: made at first use and kept in the data directory.
    instance_id: Annotated[str, Field(pattern=r"^([0-9a-f]{8})?$")] = ""
    # Empty: the engine picks a free one.
    subnet: str = ""

    cpu_share: float = 0.5
    cpu_ceiling: float = 1.0
    memory_soft_mb: int = 512
    memory_hard_mb: int = 1024
    pids: int = 1024
    agent_pids: int = 256
    workspace_mb: int = 60
    home_mb: int = 40

    # Which CLIs each sandbox starts ahead of need; comma-separated.
    prewarm: Annotated[tuple[Provider, ...], NoDecode] = ("claude", "codex", "gemini")
    agent_idle_s: float = 900
    # How many sandboxes wait, started, for users who have none; 0: none. auto: by the machine.
    pool_size: Literal["auto"] | NonNegativeInt = "auto"

    # Seconds without use after which a sandbox is frozen, and put away; 0: never.
    freeze_after_s: NonNegativeFloat = 300
    hibernate_after_s: NonNegativeFloat = 1800
    # Where what is put away is kept: a directory, or s3://BUCKET/PREFIX; empty: in the data
    # directory.
    snapshots: str = ""
    # Days for which it is kept, by tier.
    snapshot_days_free: PositiveFloat = 7
    snapshot_days_pro: PositiveFloat = 30
    snapshot_days_team: PositiveFloat = 90

    # The pool grows while more runs than this wait for a container, up to a size, and goes back
    # when more than it should have were idle for so long.
    pool_max: Literal["auto"] | NonNegativeInt = "auto"
    pool_grow_above: NonNegativeInt = 3
    pool_shrink_after_s: PositiveFloat = 600
    # Percent of the host's, over a minute, at which an alert is raised.
    alert_cpu: PositiveFloat = 80
    alert_memory: PositiveFloat = 85
    # Containers that there are at most, the waiting ones included, and what they leave of the
    # host's memory.
    max_containers: PositiveInt = 50
    memory_reserve_mb: NonNegativeInt = 1024
    # How long a busy user keeps a container that another one waits for.
    turn_s: PositiveFloat = 30
    # Runs that wait: of all, and of a user by tier. Beyond it they are refused.
    queue_max: PositiveInt = 1000
    queue_free: PositiveInt = 100
    queue_pro: PositiveInt = 300
    queue_team: PositiveInt = 1000
    # A user's runs at once, by tier; a sandbox takes four.
    runs_free: Annotated[int, Field(ge=1, le=4)] = 2
    runs_pro: Annotated[int, Field(ge=1, le=4)] = 4
    runs_team: Annotated[int, Field(ge=1, le=4)] = 4
    # Turns of a tier's user where users wait for containers.
    weight_free: PositiveInt = 1
    weight_pro: PositiveInt = 2
    weight_team: PositiveInt = 4

    claude_base_url: str = PROVIDER_BASE_URLS["claude"]
    codex_base_url: str = PROVIDER_BASE_URLS["codex"]
    gemini_base_url: str = PROVIDER_BASE_URLS["gemini"]

    # direct: sandboxes leave through the server's own address. exits: each user through the exit
    # leased to them, and nobody in any other way.
    egress: Literal["direct", "exits"] = "direct"
    # What every sandbox may reach through CONNECT besides its providers' sign-in hosts:
    # host, *.host, host:port; 443 without a port. Comma-separated.
    egress_allow: Annotated[tuple[str, ...], NoDecode] = GIT_HOSTS
    # Private networks into which an allowed name may lead all the same, as CIDR. None by default.
    egress_networks: Annotated[tuple[str, ...], NoDecode] = ()
    egress_connections: int = 128  # a sandbox's at once
    egress_requests_per_s: NonNegativeFloat = 100  # of a sandbox; 0 is no limit
    egress_mb_per_s: NonNegativeFloat = 20  # of a sandbox, each way; 0 is no limit
    exit_probe_url: str = "https://ip.decodo.com/json"
    exit_probe_every_s: float = 300
    # After so many failed probes in a row a user gets a spare exit, until theirs is well; 0: never.
    exit_spare_after: int = 0

    # The vault's master key and, while it is being changed, the one before: base64 of 32 bytes.
    # Without one it is kept in ``master_keys_file``.
    master_key: SecretStr = SecretStr("")
    master_key_previous: SecretStr = SecretStr("")
    # Where Codex goes with a ChatGPT login, which OpenAI's API does not take.
    codex_login_base_url: str = "https://chatgpt.com/backend-api/codex"

    # A Claude session token is taken only where the operator says so (docs/legal.md).
    claude_session_tokens: bool = False
    # A text that each user must have accepted before their first run; none by default.
    agreement_file: Path | None = None

    # Private networks into which webhooks may lead, as CIDR, also without TLS. None by default.
    webhook_networks: Annotated[tuple[str, ...], NoDecode] = ()

    # A user's terminals at once; 0: none. Seconds after which one ends in which nothing is typed or
    # shown, and one that nobody has come back to.
    terminals: Annotated[int, Field(ge=0, le=16)] = 4
    terminal_idle_s: PositiveFloat = 1800
    terminal_detached_s: PositiveFloat = 900

    run_timeout_s: float = 600
    # Of runs that name none. ask: a person decides what an agent may change.
    permission_mode: PermissionMode = "auto"
    run_timeout_max_s: float = 3600

    @field_validator(
        "prewarm",
        "egress_allow",
        "egress_networks",
        "webhook_networks",
        "trusted_proxies",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @property
    def database(self) -> str:
        """The database's address, with its password: it is opened with that, and never shown."""
        return self.database_url.get_secret_value() or f"sqlite:///{self.data_dir / 'hutch.db'}"

    @property
    def walls_enforced(self) -> bool:
        """Whether nothing may be served behind a wall that does not hold."""
        alone = not self.database_url.get_secret_value()
        local = self.host in {"127.0.0.1", "::1", "localhost"}
        return self.walls == "enforce" or (self.walls == "auto" and not (alone and local))

    @property
    def own_url(self) -> str:
        """Where other processes of this service reach this one."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104  to reach it, not to listen
        scheme = "http" if self.tls_cert is None else "https"
        return self.advertise_url.rstrip("/") or f"{scheme}://{host}:{self.port}"

    @property
    def gateway_socket(self) -> Path:
        """Mode 0600, or 0660 with a ``socket_group``."""
        return (
            Path(self.gateway_control) if self.gateway_control else self.data_dir / "gateway.sock"
        )

    @property
    def admin_key_file(self) -> Path:
        """The first admin key, written at the first start; mode 0600."""
        return self.data_dir / "admin-key"

    @property
    def audit_anchor_file(self) -> Path:
        """How far the audit log goes, signed; mode 0600."""
        return self.data_dir / "audit-anchor"

    @property
    def master_keys_file(self) -> Path:
        """What opens every stored credential, made at the first start; mode 0600."""
        return self.data_dir / "master-keys"

    @property
    def snapshots_dir(self) -> Path:
        return Path(self.snapshots) if self.snapshots else self.data_dir / "snapshots"

    @property
    def logs_dir(self) -> Path:
        return self.data_dir / "logs"

    def base_url(self, provider: Provider) -> str:
        return {
            "claude": self.claude_base_url,
            "codex": self.codex_base_url,
            "gemini": self.gemini_base_url,
        }[provider].rstrip("/")

    @cached_property
    def instance(self) -> str:
        """Eight characters that tell this installation's containers from any other's on the
        machine. Whoever may not write the data directory, as the engine's door, is told it by the
        settings: whose containers it lets somebody touch is not for that somebody to say.
        """
        return self.instance_id or _once(self.data_dir / "instance", lambda: secrets.token_hex(4))

    @cached_property
    def secret(self) -> bytes:
        """The installation's own secret, mode 0600; runtime keys and key hashes derive from it."""
        return bytes.fromhex(_once(self.data_dir / "secret", lambda: secrets.token_hex(32)))


def _once(path: Path, make: Callable[[], str]) -> str:
    """The text of ``path``, made if it is not there; safe when two processes race."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(make())
    try:
        os.link(draft, path)  # fails when another process was first; then theirs counts
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text().strip()
