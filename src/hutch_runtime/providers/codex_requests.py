"""What ``codex app-server`` asks of its client, and our answers.

With ``approvalPolicy: never`` it should ask for nothing; a request without an answer would hold the
turn for ever, so each has one. Commands and edits are allowed: the container is the sandbox.
"""

from __future__ import annotations

import time
from typing import Any, Final

from hutch_runtime.jsonrpc import METHOD_NOT_FOUND, RpcError
from hutch_runtime.providers.rpc_process import RpcProcess

_ANSWERS: Final[dict[str, dict[str, Any]]] = {
    "applyPatchApproval": {"decision": "approved"},
    "execCommandApproval": {"decision": "approved"},
    "item/commandExecution/requestApproval": {"decision": "accept"},
    "item/fileChange/requestApproval": {"decision": "accept"},
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
    """The result for a request; raises ``RpcError`` for one that is refused.

    One that this version does not know is also shown to the turn that it belongs to.
    """
    if method == "currentTime/read":
        return {"currentTimeAt": int(time.time())}
    if method in _ANSWERS:
        return _ANSWERS[method]
    if method not in _REFUSED:
        listener = process.listener(params.get("threadId"))
        if listener is not None:
            listener.unreadable(line)
    raise RpcError(METHOD_NOT_FOUND, f"{method} is not supported by this client")
