"""The servers that a person works with: one private file, names, and which of them is used."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hutch.errors import HostNotReady


def write_private(path: Path, text: str) -> None:
    """Replace the file in one step, readable by its owner alone."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)


@dataclass(frozen=True, slots=True)
class Server:
    """``key`` may be a service key, with ``user``; ``admin_key`` is for `hutch admin`."""

    url: str
    key: str = field(default="", repr=False)
    admin_key: str = field(default="", repr=False)
    user: str = ""
    ca: str = ""


@dataclass(frozen=True, slots=True)
class Servers:
    named: dict[str, Server]
    current: str = ""

    def chosen(self) -> tuple[str, Server] | None:
        """By ``HUTCH_PROFILE``, else the current one; None: what `make up` started here."""
        name = os.environ.get("HUTCH_PROFILE") or self.current
        if not name:
            return None
        if name not in self.named:
            raise HostNotReady(
                f"There is no profile {name}.", hint="`hutch profile list` shows those there are."
            )
        return name, self.named[name]


def path() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "hutch" / "profiles.json"


def load() -> Servers:
    try:
        text = path().read_text()
    except OSError:
        return Servers({})
    try:
        found: Any = json.loads(text)
        named = {str(name): Server(**fields) for name, fields in found["profiles"].items()}
        return Servers(named, str(found["current"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise HostNotReady(
            f"{path()} is not a file of profiles.", hint="Mend it, or move it away."
        ) from None


def save(servers: Servers) -> None:
    path().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = {
        "current": servers.current,
        "profiles": {name: asdict(server) for name, server in servers.named.items()},
    }
    write_private(path(), json.dumps(content, indent=2) + "\n")
