"""The audit log, for admins: read-only keys are enough for all of it."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from hutch.api.caller import HutchDep, admin
from hutch.api.shapes import Shape
from hutch.audit.chain import Link

router = APIRouter(prefix="/v1/admin/audit", tags=["audit"], dependencies=[Depends(admin)])


class AuditLine(Shape):
    seq: int
    seal: str = Field(description="HMAC-SHA-256 of this line and the seal before it, in hex.")
    line: dict[str, Any] = Field(
        description="time, actor (a key's id, or service), scope, user, action, target, source, "
        "result; times, where one line stands for many."
    )

    @classmethod
    def of(cls, link: Link) -> AuditLine:
        return cls(seq=link.seq, seal=link.seal.hex(), line=json.loads(link.line))


class AuditPage(Shape):
    lines: list[AuditLine]


class AuditFault(Shape):
    seq: int
    what: str


class AuditVerdict(Shape):
    intact: bool
    lines: int
    seal: str = Field(description="Of the last line: keep it elsewhere, and compare.")
    faults: list[AuditFault] = Field(description="At most a hundred.")


@router.get("")
async def list_audit(
    hutch: HutchDep,
    before: Annotated[int | None, Query(ge=1)] = None,
    after: Annotated[int | None, Query(ge=0)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> AuditPage:
    """Newest first, `before` a line; or with `after` oldest first."""
    if after is not None:
        links = await hutch.audit.oldest(after=after, limit=limit)
    else:
        links = await hutch.audit.newest(before=before, limit=limit)
    return AuditPage(lines=[AuditLine.of(link) for link in links])


@router.get("/verify")
async def verify_audit(
    hutch: HutchDep,
    first: Annotated[int, Query(ge=1, description="Take what stands before it as given.")] = 1,
) -> AuditVerdict:
    """Whether any line was removed, changed, put elsewhere, or cut off at the end."""
    verdict = await hutch.audit.verify(first=first)
    return AuditVerdict(
        intact=not verdict.faults,
        lines=verdict.lines,
        seal=verdict.seal,
        faults=[AuditFault.model_validate(fault) for fault in verdict.faults],
    )
