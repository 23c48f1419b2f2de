from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from hutch.api.auditing import about
from hutch.api.caller import CallerDep, HutchDep
from hutch.api.shapes import TerminalAnswer, TerminalList, TerminalRequest
from hutch.terminals.models import NewTerminal

router = APIRouter(prefix="/v1/terminals", tags=["terminals"])


@router.post("", status_code=201)
async def open_terminal(
    asked: TerminalRequest, hutch: HutchDep, caller: CallerDep
) -> TerminalAnswer:
    """A shell, or a command, in the user's container, which is made or woken if need be. What it
    shows and is told goes by `WS /v1/terminal?terminal=…`.
    """
    new = NewTerminal(
        command=tuple(asked.command) if asked.command is not None else None,
        tty=asked.tty,
        rows=asked.rows,
        columns=asked.columns,
        term=asked.term,
    )
    terminal = await hutch.terminals.open(caller.user_id, new)
    about(terminal_id=terminal.id)
    return TerminalAnswer.model_validate(terminal)


@router.get("")
async def list_terminals(hutch: HutchDep, caller: CallerDep) -> TerminalList:
    """Those that live, the oldest first."""
    found = await hutch.terminals.of(caller.user_id)
    return TerminalList(terminals=[TerminalAnswer.model_validate(one) for one in found])


@router.delete("/{terminal_id}", status_code=204)
async def end_terminal(terminal_id: str, hutch: HutchDep, caller: CallerDep) -> Response:
    """Hang up: its programs are told, and killed if they do not go."""
    await hutch.terminals.end(caller.user_id, terminal_id)
    return Response(status_code=204)
