from __future__ import annotations

from fastapi import APIRouter

from hutch.api.caller import CallerDep, HutchDep
from hutch.api.shapes import AcceptRequest, AgreementAnswer, AgreementPage

router = APIRouter(prefix="/v1/agreements", tags=["agreements"])


@router.get("")
async def list_agreements(hutch: HutchDep, caller: CallerDep) -> AgreementPage:
    """Every text that can be accepted here, and whether this user has."""
    page = await hutch.agreements.of(caller.user_id)
    return AgreementPage(agreements=[AgreementAnswer.model_validate(one) for one in page])


@router.post("")
async def accept_agreement(
    asked: AcceptRequest, hutch: HutchDep, caller: CallerDep
) -> AgreementAnswer:
    """Recorded with the time. Accepting twice changes nothing."""
    accepted = await hutch.agreements.accept(caller.user_id, asked.document, asked.version)
    return AgreementAnswer.model_validate(accepted)
