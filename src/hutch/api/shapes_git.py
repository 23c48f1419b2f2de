"""Git on the wire."""

from __future__ import annotations

from pydantic import Field, SecretStr

from hutch.api.shapes import Asked, Shape, Time
from hutch.git import models
from hutch.git.models import TIMEOUT_MAX_S, TIMEOUT_S, USERNAME, CloneWanted
from hutch.secrets import Secret


class CloneRequest(Asked):
    url: str = Field(max_length=2000, description="https://host[:port]/path")
    directory: str | None = Field(
        None, max_length=400, description="Below the workspace; the repository's name if left out."
    )
    branch: str | None = Field(None, max_length=200, description="Or a tag.")
    depth: int | None = Field(None, ge=1, le=1_000_000, description="Of its history, in commits.")
    submodules: bool = Field(False, description="Theirs too, of the same kind of address.")
    timeout_s: float = Field(TIMEOUT_S, gt=0, le=TIMEOUT_MAX_S)
    username: str = Field(USERNAME, max_length=100, description="Beside the token.")
    token: SecretStr | None = Field(None, description="For this clone alone; stored nowhere.")

    def wanted(self) -> CloneWanted:
        """Raises ``InvalidRequest``."""
        repository = models.repository(self.url)
        token = self.token.get_secret_value() if self.token is not None else None
        return CloneWanted(
            repository=repository,
            directory=models.directory(self.directory or repository.name),
            branch=models.branch(self.branch) if self.branch is not None else None,
            depth=self.depth,
            submodules=self.submodules,
            timeout_s=self.timeout_s,
            token=models.secret(self.username, token) if token is not None else None,
        )


class CloneAnswer(Shape):
    commit: str | None = Field(description="That is checked out; null in an empty repository.")
    branch: str | None = Field(description="Null of a tag.")
    directory: str = Field(description="Below the workspace.")
    bytes: int = Field(description="That it takes, its history included.")


class GitTokenRequest(Asked):
    token: SecretStr
    username: str = Field(
        USERNAME, max_length=100, description="Bitbucket wants x-token-auth; others take any."
    )

    def secret(self) -> Secret:
        """Raises ``InvalidRequest``."""
        return models.secret(self.username, self.token.get_secret_value())


class GitTokenAnswer(Shape):
    host: str
    username: str
    created_at: Time


class GitTokenPage(Shape):
    credentials: list[GitTokenAnswer]
