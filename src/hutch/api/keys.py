"""A user's own keys, and all of them for an admin."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from hutch.accounts.models import NewKey
from hutch.api.auditing import about
from hutch.api.caller import CallerDep, HutchDep, KeyDep, admin
from hutch.api.shapes import (
    InstallationKeyRequest,
    KeyAnswer,
    KeyInfo,
    KeyPage,
    KeyRequest,
    RotateRequest,
)

router = APIRouter(prefix="/v1", tags=["keys"])
_admin = [Depends(admin)]


def made(new: NewKey) -> KeyAnswer:
    """The answer to whoever asked for it, and for the audit log which it is."""
    about(new_key_id=new.key.id)
    return KeyAnswer.of(new)


@router.get("/keys")
async def list_keys(hutch: HutchDep, caller: CallerDep) -> KeyPage:
    """The user's, expired ones included; never their text."""
    page = await hutch.accounts.keys_of(caller.user_id)
    return KeyPage(keys=[KeyInfo.model_validate(key) for key in page])


@router.post("/keys", status_code=201)
async def create_key(hutch: HutchDep, caller: CallerDep, asked: KeyRequest) -> KeyAnswer:
    """One more for the user. With a key that expires: none that lives longer."""
    new = await hutch.accounts.create_key(
        "user", caller.user_id, **asked.model_dump(), by=caller.key
    )
    return made(new)


@router.post("/keys/{key_id}/rotate", status_code=201)
async def rotate_key(
    key_id: str, hutch: HutchDep, caller: CallerDep, asked: RotateRequest
) -> KeyAnswer:
    """A successor that may do the same. The key itself is valid for `grace_s` more seconds."""
    new = await hutch.accounts.rotate_key(
        key_id, **asked.model_dump(), by=caller.key, user_id=caller.user_id
    )
    return made(new)


@router.delete("/keys/{key_id}", status_code=204)
async def revoke_key(key_id: str, hutch: HutchDep, caller: CallerDep) -> None:
    """From the next request on. A stream that is open goes on to its end."""
    await hutch.accounts.revoke_key(key_id, user_id=caller.user_id)


@router.get("/admin/keys", dependencies=_admin)
async def list_all_keys(
    hutch: HutchDep, user_id: Annotated[str | None, Query(description="Only theirs.")] = None
) -> KeyPage:
    """Every key of the installation and of its users."""
    accounts = hutch.accounts
    if user_id is None:
        page = await accounts.all_keys()
    else:
        page = await accounts.keys_of((await accounts.user(user_id)).id)
    return KeyPage(keys=[KeyInfo.model_validate(key) for key in page])


@router.post("/admin/keys", status_code=201, dependencies=_admin)
async def create_installation_key(
    hutch: HutchDep, key: KeyDep, asked: InstallationKeyRequest
) -> KeyAnswer:
    """A service key, or another admin key; a read-only one for a dashboard or an auditor."""
    return made(await hutch.accounts.create_key(**asked.model_dump(), by=key))


@router.post("/admin/keys/{key_id}/rotate", status_code=201, dependencies=_admin)
async def rotate_any_key(
    key_id: str, hutch: HutchDep, key: KeyDep, asked: RotateRequest
) -> KeyAnswer:
    return made(await hutch.accounts.rotate_key(key_id, **asked.model_dump(), by=key))


@router.delete("/admin/keys/{key_id}", status_code=204, dependencies=_admin)
async def revoke_any_key(key_id: str, hutch: HutchDep) -> None:
    """Not the last admin key that does not expire."""
    await hutch.accounts.revoke_key(key_id)
