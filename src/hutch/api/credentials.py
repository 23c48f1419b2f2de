from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query

from hutch.api.caller import CallerDep, HutchDep
from hutch.api.shapes import (
    CheckAnswer,
    CredentialAnswer,
    CredentialPage,
    CredentialRequest,
    StoredCredential,
)
from hutch.app import Hutch
from hutch.errors import CredentialRejected
from hutch.vault.models import Credential
from hutch_runtime.protocol import Provider

router = APIRouter(prefix="/v1/credentials", tags=["credentials"])

_UNCHECKED: Final = CheckAnswer(
    result="unchecked", detail="Only its CLI may use a login: run a prompt to try it."
)


@router.get("")
async def list_credentials(hutch: HutchDep, caller: CallerDep) -> CredentialPage:
    page = await hutch.vault.all(caller.user_id)
    return CredentialPage(credentials=[CredentialAnswer.model_validate(c) for c in page])


@router.put("/{provider}")
async def put_credential(
    provider: Provider,
    asked: CredentialRequest,
    hutch: HutchDep,
    caller: CallerDep,
    *,
    verify: Annotated[bool, Query(description="Try it first; store it unless refused.")] = False,
) -> StoredCredential:
    """Store or replace it. It is kept encrypted, and never comes back."""
    text = asked.text()
    verified: CheckAnswer | None = None
    if verify:
        candidate = await hutch.vault.check(caller.user_id, provider, asked.kind, text)
        verified = await _try(hutch, caller.user_id, candidate)
        if verified.result == "rejected":
            raise CredentialRejected(
                f"{verified.detail} It was not stored; what was stored before is kept.",
                hint="Check that it is whole, and neither revoked nor of another account.",
            )
    info = await hutch.vault.put(caller.user_id, provider, asked.kind, text)
    await hutch.gateway_sync.user_changed(caller.user_id)
    await hutch.logins.credentials_changed(caller.user_id)
    if verified is not None and verified.result != "unchecked":
        await hutch.vault.record_check(caller.user_id, provider, verified.result)
        info = await hutch.vault.info(caller.user_id, provider)
    stored = StoredCredential.model_validate(info)
    return stored.model_copy(update={"verified": verified})


@router.post("/{provider}/test")
async def test_credential(provider: Provider, hutch: HutchDep, caller: CallerDep) -> CheckAnswer:
    """One cheap request to the provider with what is stored; it costs no tokens."""
    credential = await hutch.vault.reveal_one(caller.user_id, provider)
    tried = await _try(hutch, caller.user_id, credential)
    if tried.result != "unchecked":
        await hutch.vault.record_check(caller.user_id, provider, tried.result)
    return tried


@router.get("/{provider}")
async def get_credential(
    provider: Provider, hutch: HutchDep, caller: CallerDep
) -> CredentialAnswer:
    return CredentialAnswer.model_validate(await hutch.vault.info(caller.user_id, provider))


@router.delete("/{provider}", status_code=204)
async def delete_credential(provider: Provider, hutch: HutchDep, caller: CallerDep) -> None:
    """From the vault, before this answers from the gateway's memory, and from the container."""
    await hutch.vault.delete(caller.user_id, provider)
    await hutch.gateway_sync.user_changed(caller.user_id)
    await hutch.logins.credentials_changed(caller.user_id)


async def _try(hutch: Hutch, user_id: str, credential: Credential) -> CheckAnswer:
    probed = await hutch.probe.probe(user_id, credential)
    return CheckAnswer.model_validate(probed) if probed is not None else _UNCHECKED
