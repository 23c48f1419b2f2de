from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from hutch.api.caller import CallerDep, HutchDep
from hutch.api.shapes_git import (
    CloneAnswer,
    CloneRequest,
    GitTokenAnswer,
    GitTokenPage,
    GitTokenRequest,
)
from hutch.git.models import git_host

router = APIRouter(prefix="/v1/git", tags=["git"])

Host = Annotated[str, Path(max_length=260, description="host, or host:port.")]


@router.post("/clone")
async def clone_repository(asked: CloneRequest, hutch: HutchDep, caller: CallerDep) -> CloneAnswer:
    """A repository, into the user's workspace; answers once it is there, or nothing of it is."""
    return CloneAnswer.model_validate(await hutch.git.clone(caller.user_id, asked.wanted()))


@router.get("/credentials")
async def list_git_credentials(hutch: HutchDep, caller: CallerDep) -> GitTokenPage:
    tokens = await hutch.git.tokens(caller.user_id)
    return GitTokenPage(credentials=[GitTokenAnswer.model_validate(token) for token in tokens])


@router.put("/credentials/{host}")
async def put_git_credential(
    host: Host, asked: GitTokenRequest, hutch: HutchDep, caller: CallerDep
) -> GitTokenAnswer:
    """Store or replace the token for a host. It is kept encrypted, and never comes back."""
    stored = await hutch.git.put_token(
        caller.user_id, git_host(host), asked.username, asked.secret()
    )
    return GitTokenAnswer.model_validate(stored)


@router.delete("/credentials/{host}", status_code=204)
async def delete_git_credential(host: Host, hutch: HutchDep, caller: CallerDep) -> None:
    await hutch.git.delete_token(caller.user_id, git_host(host))
