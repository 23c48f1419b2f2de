from __future__ import annotations

from fastapi import APIRouter

from hutch.api.caller import Caller, CallerDep, HutchDep
from hutch.api.shapes import NetworkAnswer, NetworkRequest
from hutch.app import Hutch
from hutch.gateway.names import rule_text

router = APIRouter(prefix="/v1/network", tags=["network"])


@router.get("")
async def get_network(hutch: HutchDep, caller: CallerDep) -> NetworkAnswer:
    """Which hosts the user's sandbox may reach besides the model APIs and their sign-in."""
    return await _answer(hutch, caller)


@router.put("")
async def put_network(asked: NetworkRequest, hutch: HutchDep, caller: CallerDep) -> NetworkAnswer:
    """In place of the user's former list, from the next connection on."""
    await hutch.allowed_hosts.replace(caller.user_id, asked.allow)
    await hutch.gateway_sync.user_changed(caller.user_id)
    return await _answer(hutch, caller)


async def _answer(hutch: Hutch, caller: Caller) -> NetworkAnswer:
    return NetworkAnswer(
        allow=[rule_text(rule) for rule in await hutch.allowed_hosts.own(caller.user_id)],
        always=[rule_text(rule) for rule in hutch.allowed_hosts.always],
    )
