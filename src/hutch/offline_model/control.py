"""What tests see and set from outside: recorded requests, and behaviours by match."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hutch.offline_model.behaviour import MAX_PAUSE_MS, MAX_TOKENS, Slow, Wish
from hutch.offline_model.bodies import read_json
from hutch.offline_model.conversation import Malformed
from hutch.offline_model.recorded import Recorded
from hutch.offline_model.request_log import RequestLog

KEPT_REQUESTS: Final = 100
MAX_BEHAVIOURS: Final = 100


class SlowWish(BaseModel):
    model_config = ConfigDict(extra="forbid")
    tokens: int = Field(ge=1, le=MAX_TOKENS)
    ms: int = Field(ge=0, le=MAX_PAUSE_MS)


class Behaviour(BaseModel):
    """What to do with the turns that it matches, instead of what their magic words say."""

    model_config = ConfigDict(extra="forbid")
    models: bool = False  # of lists of models, by which keys are tried, and of no turns
    match: str = ""  # part of the user's text; "" is in every text
    key: str = ""  # a key's fingerprint; "" is any
    status: int | None = Field(default=None, ge=400, le=599)
    slow: SlowWish | None = None
    hang: bool = False
    times: int | None = Field(default=None, ge=1)  # None: until cleared

    def wish(self) -> Wish:
        slow = Slow(self.slow.tokens, self.slow.ms) if self.slow else None
        return Wish(status=self.status, slow=slow, hang=self.hang)


class Control:
    """The state that outlives a request; one per app."""

    def __init__(self, log: RequestLog) -> None:
        self.log = log
        self.requests: deque[Recorded] = deque(maxlen=KEPT_REQUESTS)
        self.behaviours: list[Behaviour] = []
        self.callers: Counter[tuple[str, str]] = Counter()  # by key's fingerprint and address

    def record(self, recorded: Recorded) -> None:
        self.requests.append(recorded)
        self.callers[recorded.key, recorded.peer] += 1

    def take(self, user_text: str, key: str, *, models: bool = False) -> Wish | None:
        """The first behaviour that matches, counted down."""
        for behaviour in self.behaviours:
            if (
                behaviour.models == models
                and behaviour.match in user_text
                and behaviour.key in {"", key}
            ):
                if behaviour.times is not None:
                    behaviour.times -= 1
                    if behaviour.times == 0:
                        self.behaviours.remove(behaviour)
                return behaviour.wish()
        return None

    def routes(self) -> list[Route]:
        return [
            Route("/_control/requests", self._requests, methods=["GET", "DELETE"]),
            Route("/_control/callers", self._callers),
            Route("/_control/behaviour", self._behaviour, methods=["POST", "DELETE"]),
        ]

    async def _requests(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.requests.clear()
        return JSONResponse({"requests": [recorded.public() for recorded in self.requests]})

    async def _callers(self, _: Request) -> Response:
        """Who came from where since the start, with how many requests."""
        callers = [
            {"key": key, "peer": peer, "requests": count}
            for (key, peer), count in sorted(self.callers.items())
        ]
        return JSONResponse({"callers": callers})

    async def _behaviour(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.behaviours.clear()
        else:
            try:
                behaviour = Behaviour.model_validate(await read_json(request))
            except (Malformed, ValueError) as error:  # pydantic's is a ValueError
                return JSONResponse({"error": str(error)}, status_code=400)
            if len(self.behaviours) >= MAX_BEHAVIOURS:
                return JSONResponse({"error": "too many behaviours"}, status_code=409)
            self.behaviours.append(behaviour)
        return JSONResponse({"behaviours": [item.model_dump() for item in self.behaviours]})
