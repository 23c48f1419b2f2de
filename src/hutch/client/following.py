"""Following a run's events over connections that break: all but the bytes going to and fro."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

from hutch.client import events, requests
from hutch.client.errors import ClientError, UnexpectedAnswer, Unreachable
from hutch.client.events import Event, Text, TextDelta
from hutch.client.models import EventPage
from hutch.client.requests import Request
from hutch.client.retries import Patience

_LINE_MAX: Final = 16 << 20  # bytes; an event has 2 MB at most


class Following:
    """Where a follower of one run is. While it ``goes_on()``, ``request()`` says what to ask next.

    A new run is asked for until its id is known, with one Idempotency-Key; from then on its events
    after the last one that was seen. None is given out twice, and a gap is asked for again.
    """

    def __init__(
        self,
        *,
        run_id: str = "",
        after: int = 0,
        start: tuple[dict[str, Any], dict[str, str]] | None = None,
        retry_for_s: float,
    ) -> None:
        self.run_id = run_id
        self.session_id = ""
        self._finished = False
        self.in_doubt = False  # whether the run has ended before what was asked for
        self.last = after
        self._start = start
        self._patience = Patience(retry_for_s)
        self._waiting: deque[Event] = deque()
        self._rest = b""
        self._gap = False
        self._idle = True  # this connection has brought nothing yet

    def goes_on(self) -> bool:
        return not self._finished

    def request(self) -> Request[None]:
        self._rest, self._gap, self._idle = b"", False, True
        if not self.run_id:
            assert self._start is not None  # noqa: S101  the two ways to make one
            body, headers = self._start
            return Request("POST", "/v1/runs", _unread, json=body, headers=headers)
        return Request(
            "GET",
            requests.path("/v1/runs/{id}/events", id=self.run_id),
            _unread,
            params={"after": self.last},
            headers={"accept": "text/event-stream"},
        )

    def opened(self, headers: Mapping[str, str]) -> None:
        if not headers.get("content-type", "").startswith("text/event-stream"):
            raise UnexpectedAnswer(
                "The answer is no stream of events.", hint="Does the address lead to Hutch?"
            )
        self.run_id = headers.get("x-hutch-run") or self.run_id
        self.session_id = headers.get("x-hutch-session") or self.session_id

    def feed(self, chunk: bytes) -> None:
        """What ``take`` gives out next."""
        # Not str.splitlines: it splits at U+2028 and others, which may stand inside an event.
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _LINE_MAX:
            raise UnexpectedAnswer("A line of the stream has no end.")
        for line in lines:
            if line.startswith(b"data:") and not (self._finished or self._gap):
                self._add(_event(line[5:]))

    def _add(self, event: Event) -> None:
        if event.seq <= self.last:
            return
        self._gap = event.seq != self.last + 1
        if self._gap:
            return
        self.last = event.seq
        self.run_id = self.run_id or event.run_id
        self._finished = event.type == "run.finished"
        self._idle = False
        self._patience.progress()
        self._waiting.append(event)

    def take(self) -> Iterator[Event]:
        """Each event once, also when whoever takes them is interrupted and comes back. Raises
        ``Unreachable`` where one is missing.
        """
        while self._waiting:
            yield self._waiting.popleft()
        if self._gap:
            raise Unreachable("An event is missing in the stream.")

    def ended(self) -> None:
        """The connection was closed in good order. Raises ``Unreachable`` before the last event."""
        if self._finished:
            return
        if self._idle and self.run_id:
            self.in_doubt = True
        else:
            raise Unreachable("The stream of events broke off.")

    def looked(self, page: EventPage) -> None:
        """What comes after ``last``. Raises ``Unreachable`` when there is more to come."""
        self.in_doubt = False
        self._finished = page.finished and not page.events
        if not self._finished:
            raise Unreachable("The stream of events broke off.")

    def pause_after(self, error: ClientError) -> float:
        """Seconds until the next try. Raises ``error`` when there is none."""
        return self._patience.pause_after(error, repeatable=True)


class Prose:
    """The answer as text, from events: blocks that came as deltas are not repeated."""

    def __init__(self) -> None:
        self._streamed = False

    def of(self, event: Event) -> str:
        match event:
            case TextDelta(text=text):
                self._streamed = True
                return text
            case Text(text=text):
                streamed, self._streamed = self._streamed, False
                return "\n" if streamed else text + "\n"
        return ""


def _event(data: bytes) -> Event:
    try:
        return events.parse(json.loads(data))
    except (ValueError, TypeError, AttributeError):
        raise UnexpectedAnswer("What came in a run's stream is no event.") from None


def _unread(_: bytes) -> None:
    return None
