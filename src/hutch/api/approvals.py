from __future__ import annotations

from fastapi import APIRouter

from hutch.api.auditing import about
from hutch.api.caller import CallerDep, HutchDep
from hutch.api.shapes import ApprovalAnswer, ApprovalPage, DecisionRequest

router = APIRouter(prefix="/v1/runs", tags=["runs"])


@router.get("/{run_id}/approvals")
async def list_approvals(run_id: str, hutch: HutchDep, caller: CallerDep) -> ApprovalPage:
    """What the run has asked for, in that order, decided or not."""
    approvals = await hutch.runs.approvals(caller.user_id, run_id)
    return ApprovalPage(approvals=[ApprovalAnswer.model_validate(one) for one in approvals])


@router.post("/{run_id}/approvals/{approval_id}")
async def decide_approval(
    run_id: str, approval_id: str, asked: DecisionRequest, hutch: HutchDep, caller: CallerDep
) -> ApprovalAnswer:
    """Allow or deny it. The first decision counts; saying the same again does no harm."""
    decided = await hutch.runs.decide(caller.user_id, run_id, approval_id, asked.decision)
    about(decision=asked.decision)
    return ApprovalAnswer.model_validate(decided)
