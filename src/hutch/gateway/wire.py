"""The table as JSON on the control socket; validated here, dataclasses everywhere else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyAddress,
    StringConstraints,
    model_validator,
)

from hutch.gateway.table import Entry, ExitProxy, HostRule, Remote, Route
from hutch.secrets import Secret
from hutch_runtime.protocol import Provider

Id = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
HeaderName = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9-]+$")]
# No control character, no line break: nothing that could end the header and begin another.
HeaderValue = Annotated[str, StringConstraints(max_length=8192, pattern=r"^[!-~]+( [!-~]+)*$")]
Port = Annotated[int, Field(ge=1, le=65535)]


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("not an http or https URL")
    if parts.username is not None or parts.query or parts.fragment or not text.isascii():
        raise ValueError("a base URL has no user, query or fragment")
    return text.rstrip("/")


def _remote_url(text: str) -> str:
    base, _, _ = text.partition("?")
    _base_url(base)
    return text


class _Strict(BaseModel):
    # Secrets are among the fields: an error must not quote what it was given.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)


class RouteIn(_Strict):
    base_url: Annotated[str, AfterValidator(_base_url)]
    headers: list[tuple[HeaderName, HeaderValue]]
    added: list[tuple[HeaderName, HeaderValue]]
    strip: Annotated[str, StringConstraints(max_length=64, pattern=r"^(/[A-Za-z0-9._-]+)*$")]
    own_credential: bool

    def route(self) -> Route:
        return Route(
            base_url=self.base_url,
            headers=tuple((name, Secret(value)) for name, value in self.headers),
            added=tuple(self.added),
            strip=self.strip,
            own_credential=self.own_credential,
        )


RemoteName = Annotated[
    str, StringConstraints(max_length=300, pattern=r"^(mcp/[a-z0-9-]+|git/[a-z0-9._:-]+)$")
]


class RemoteIn(_Strict):
    url: Annotated[str, AfterValidator(_remote_url)]
    headers: list[tuple[HeaderName, HeaderValue]]

    def remote(self) -> Remote:
        return Remote(self.url, tuple((name, Secret(value)) for name, value in self.headers))


class ExitIn(_Strict):
    id: Id
    host: Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[!-~]+$")]
    port: Port
    username: HeaderValue
    password: HeaderValue

    def exit(self) -> ExitProxy:
        return ExitProxy(self.id, self.host, self.port, self.username, Secret(self.password))


class RuleIn(_Strict):
    host: Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[!-~]+$")]
    port: Port


class EntryIn(_Strict):
    sandbox_id: Id
    incarnation: Id
    address: IPvAnyAddress
    user_id: Id | None
    placeholder: HeaderValue
    routes: dict[Provider, RouteIn]
    egress: Literal["direct", "exit", "closed"]
    exit: ExitIn | None
    closed_because: Annotated[str, StringConstraints(max_length=500)]
    allow: list[RuleIn]
    remotes: dict[RemoteName, RemoteIn]

    @model_validator(mode="after")
    def _has_its_exit(self) -> Self:
        # Never "through an exit" without one: that could be read as "directly".
        if (self.egress == "exit") != (self.exit is not None):
            raise ValueError("an exit belongs to egress exit, and to it alone")
        return self

    def entry(self) -> Entry:
        return Entry(
            sandbox_id=self.sandbox_id,
            incarnation=self.incarnation,
            address=str(self.address),
            user_id=self.user_id,
            placeholder=Secret(self.placeholder),
            routes={provider: route.route() for provider, route in self.routes.items()},
            egress=self.egress,
            exit=self.exit.exit() if self.exit else None,
            closed_because=self.closed_because,
            allow=tuple(HostRule(rule.host.lower(), rule.port) for rule in self.allow),
            remotes={name: remote.remote() for name, remote in self.remotes.items()},
        )


class TableIn(_Strict):
    entries: list[EntryIn]


def entry_json(entry: Entry) -> dict[str, Any]:
    """For the control socket only: the credentials are in it, in the clear."""
    return {
        "sandbox_id": entry.sandbox_id,
        "incarnation": entry.incarnation,
        "address": entry.address,
        "user_id": entry.user_id,
        "placeholder": entry.placeholder.reveal(),
        "routes": {
            provider: {
                "base_url": route.base_url,
                "headers": [(name, value.reveal()) for name, value in route.headers],
                "added": route.added,
                "strip": route.strip,
                "own_credential": route.own_credential,
            }
            for provider, route in entry.routes.items()
        },
        "egress": entry.egress,
        "exit": _exit_json(entry.exit) if entry.exit else None,
        "closed_because": entry.closed_because,
        "allow": [{"host": rule.host, "port": rule.port} for rule in entry.allow],
        "remotes": {
            name: {
                "url": remote.url,
                "headers": [(header, value.reveal()) for header, value in remote.headers],
            }
            for name, remote in entry.remotes.items()
        },
    }


def _exit_json(exit_proxy: ExitProxy) -> dict[str, Any]:
    return {
        "id": exit_proxy.id,
        "host": exit_proxy.host,
        "port": exit_proxy.port,
        "username": exit_proxy.username,
        "password": exit_proxy.password.reveal(),
    }


def table_json(entries: Iterable[Entry]) -> dict[str, Any]:
    return {"entries": [entry_json(entry) for entry in entries]}
