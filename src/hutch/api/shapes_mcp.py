"""MCP servers on the wire."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, SecretStr, StringConstraints, model_validator

from hutch.api.shapes import Asked, Shape, Time
from hutch.mcp_servers.models import ARGS_MAX, PAIRS_MAX, TEXT_MAX, URL_MAX, McpKind, McpServer
from hutch.secrets import Secret

Text = Annotated[str, StringConstraints(max_length=TEXT_MAX)]
Hidden = Annotated[SecretStr, Field(max_length=2 * TEXT_MAX)]


class McpServerRequest(Asked):
    """Either ``command``, or ``url``."""

    command: str | None = Field(
        None, min_length=1, max_length=TEXT_MAX, description="Started in the container, for stdio."
    )
    args: list[Text] = Field([], max_length=ARGS_MAX)
    env: dict[str, Hidden] = Field(
        {}, max_length=PAIRS_MAX, description="For the command. Readable inside the container."
    )
    url: str | None = Field(
        None, max_length=URL_MAX, description="A server outside that speaks streamable HTTP."
    )
    headers: dict[str, Hidden] = Field(
        {}, max_length=PAIRS_MAX, description="For the url. Put in outside the container."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("it has to have command or url, and not both")
        if self.command is None and (self.args or self.env):
            raise ValueError("args and env belong to command")
        if self.url is None and self.headers:
            raise ValueError("headers belong to url")
        return self

    def server(self, name: str, *, at: float) -> McpServer:
        return McpServer(
            name=name,
            created_at=at,
            updated_at=at,
            command=self.command,
            args=tuple(self.args),
            env=_secrets(self.env),
            url=self.url,
            headers=_secrets(self.headers),
        )


class McpServerAnswer(Shape):
    name: str
    type: McpKind
    command: str | None
    args: list[str]
    env: list[str] = Field(description="Names of the variables; their values never come back.")
    url: str | None = Field(description="Without what stands behind its question mark.")
    headers: list[str] = Field(description="Names; their values never come back.")
    created_at: Time
    updated_at: Time


class McpServerPage(Shape):
    mcp_servers: list[McpServerAnswer]


def answer(server: McpServer) -> McpServerAnswer:
    return McpServerAnswer(
        name=server.name,
        type=server.kind,
        command=server.command,
        args=list(server.args),
        env=sorted(server.env or {}),
        url=None if server.url is None else server.url.partition("?")[0],
        headers=sorted(server.headers or {}),
        created_at=server.created_at,
        updated_at=server.updated_at,
    )


def _secrets(given: dict[str, SecretStr]) -> dict[str, Secret] | None:
    return {name: Secret(value.get_secret_value()) for name, value in given.items()} or None
