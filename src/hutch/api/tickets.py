from __future__ import annotations

from fastapi import APIRouter

from hutch.api.caller import CallerDep, HutchDep
from hutch.api.shapes import TicketAnswer, TicketRequest

router = APIRouter(prefix="/v1/tickets", tags=["runs"])


@router.post("", status_code=201)
async def create_ticket(asked: TicketRequest, hutch: HutchDep, caller: CallerDep) -> TicketAnswer:
    """For one WebSocket on one run's events, where no header can be sent: in a browser."""
    run = await hutch.runs.get(caller.user_id, asked.run_id)
    ticket = hutch.tickets.issue(caller.user_id, run.id)
    return TicketAnswer(ticket=ticket.text, run_id=run.id, expires_at=ticket.expires_at)
