"""The endpoint of git."""

from __future__ import annotations

import json
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hutch_runtime.git.clone import CloneFailed, Cloner, Wanted
from hutch_runtime.protocol import KIB
from hutch_runtime.runs import Refused

_BODY_MAX: Final = 16 * KIB


class GitRoutes:
    def __init__(self, cloner: Cloner) -> None:
        self._cloner = cloner

    async def clone(self, http: Request) -> Response:
        """``Wanted`` as JSON → ``{outcome: "ok", commit, branch, bytes}``, or another outcome and a
        ``message``.
        """
        body = b""
        async for part in http.stream():
            body += part
            if len(body) > _BODY_MAX:
                raise Refused("bad_request", "There is too much of it.")
        try:
            wanted = _wanted(json.loads(body))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise Refused("bad_request", "That is nothing to clone.") from None
        try:
            cloned = await self._cloner.clone(wanted)
        except CloneFailed as failed:
            return JSONResponse({"outcome": failed.outcome, "message": failed.message})
        return JSONResponse(
            {
                "outcome": "ok",
                "commit": cloned.commit,
                "branch": cloned.branch,
                "bytes": cloned.bytes,
            }
        )


def _wanted(given: Any) -> Wanted:
    branch, depth = given.get("branch"), given.get("depth")
    wanted = Wanted(
        url=given["url"],
        host=given["host"],
        directory=given["directory"],
        branch=branch,
        depth=depth if depth is None else int(depth),
        submodules=given["submodules"] is True,
        timeout_s=float(given["timeout_s"]),
        token=given["token"] is True,
        keep=given["keep"] is True,
    )
    texts = (wanted.url, wanted.host, wanted.directory, branch or "")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError
    return wanted
