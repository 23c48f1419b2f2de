from __future__ import annotations

from fastapi import APIRouter

from hutch.accounts.tickets import TERMINAL
from hutch.api.caller import CallerDep, HutchDep
from hutch.api.shapes import TicketAnswer, TicketRequest
from hutch.errors import InvalidRequest, ReadOnlyKey

router = APIRouter(prefix="/v1/tickets", tags=["runs"])


@router.post("", status_code=201)
async def create_ticket(asked: TicketRequest, hutch: HutchDep, caller: CallerDep) -> TicketAnswer:
    """For one WebSocket on one run's events, or on a terminal (`{"terminal": true}`), where no
    header can be sent: in a browser.
    """
    if (asked.run_id is None) != asked.terminal:
        raise InvalidRequest("A ticket is for a run_id, or for a terminal: true.")
    if asked.run_id is not None:
        opens = (await hutch.runs.get(caller.user_id, asked.run_id)).id
    elif caller.key.read_only:
        raise ReadOnlyKey(
            "This key may only read.", hint="Use a key that was not made with `read_only`."
        )
    else:
        opens = TERMINAL
    ticket = hutch.tickets.issue(caller.user_id, opens, caller.key)
    return TicketAnswer(ticket=ticket.text, run_id=asked.run_id, expires_at=ticket.expires_at)
