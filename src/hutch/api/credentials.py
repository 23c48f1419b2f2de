from __future__ import annotations

from fastapi import APIRouter

from hutch.api.caller import CallerDep, HutchDep
from hutch.api.shapes import CredentialAnswer, CredentialPage, CredentialRequest
from hutch_runtime.protocol import Provider

router = APIRouter(prefix="/v1/credentials", tags=["credentials"])


@router.get("")
async def list_credentials(hutch: HutchDep, caller: CallerDep) -> CredentialPage:
    page = await hutch.vault.all(caller.user_id)
    return CredentialPage(credentials=[CredentialAnswer.model_validate(c) for c in page])


@router.put("/{provider}")
async def put_credential(
    provider: Provider, asked: CredentialRequest, hutch: HutchDep, caller: CallerDep
) -> CredentialAnswer:
    """Store or replace it. It is kept encrypted, never enters the container, never comes back."""
    info = await hutch.vault.put(caller.user_id, provider, "api_key", asked.api_key)
    await hutch.gateway_sync.credentials_changed(caller.user_id)
    return CredentialAnswer.model_validate(info)


@router.get("/{provider}")
async def get_credential(
    provider: Provider, hutch: HutchDep, caller: CallerDep
) -> CredentialAnswer:
    return CredentialAnswer.model_validate(await hutch.vault.info(caller.user_id, provider))


@router.delete("/{provider}", status_code=204)
async def delete_credential(provider: Provider, hutch: HutchDep, caller: CallerDep) -> None:
    """From the vault and, before this answers, from the gateway's memory."""
    await hutch.vault.delete(caller.user_id, provider)
    await hutch.gateway_sync.credentials_changed(caller.user_id)
