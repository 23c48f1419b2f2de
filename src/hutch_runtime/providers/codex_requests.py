"""What ``codex app-server`` asks of its client, and our answers.

With ``approvalPolicy: never`` it should ask for nothing; a request without an answer would hold the
turn for ever, so each has one. In a turn that asks nobody commands and edits are allowed: the
container is the sandbox. In one that asks, a person answers.
"""

from __future__ import annotations

import time
from typing import Any, Final

from hutch_runtime.jsonrpc import METHOD_NOT_FOUND, RpcError
from hutch_runtime.providers.codex_agent import CodexAgent
from hutch_runtime.providers.codex_approvals import answer, is_approval
from hutch_runtime.providers.rpc_process import RpcProcess

_ANSWERS: Final[dict[str, dict[str, Any]]] = {
    # Of clients that speak its older protocol.
    "applyPatchApproval": {"decision": "denied"},
    "execCommandApproval": {"decision": "denied"},
    # No wider rights: those that it has are all there are.
    "item/permissions/requestApproval": {"permissions": {}, "scope": "turn"},
    # Nobody is there to fill in a form.
    "item/tool/requestUserInput": {"answers": {}},
    "mcpServer/elicitation/request": {"action": "decline", "content": None, "_meta": None},
    # We announced no tools.
    "item/tool/call": {"contentItems": [], "success": False},
}
_REFUSED: Final = frozenset({"account/chatgptAuthTokens/refresh", "attestation/generate"})


def answer_request(process: RpcProcess, method: str, params: dict[str, Any], line: str) -> object:
    """The result for a request, or what can be awaited for it; raises ``RpcError`` for one that is
    refused.

    One that this version does not know is also shown to the turn that it belongs to.
    """
    if method == "currentTime/read":
        return {"currentTimeAt": int(time.time())}
    listener = process.listener(params.get("threadId"))
    if is_approval(method, params):
        if isinstance(listener, CodexAgent):
            return listener.approval(method, params)
        return answer(method, params, "deny")  # of no session that anybody has
    if method in _ANSWERS:
        return _ANSWERS[method]
    if method not in _REFUSED and listener is not None:
        listener.unreadable(line)
    raise RpcError(METHOD_NOT_FOUND, f"{method} is not supported by this client")
