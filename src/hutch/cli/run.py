"""``hutch run`` and ``hutch logs``: what the agent does with a prompt, as it comes."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Unpack

from rich.console import Console
from rich.status import Status
from rich.text import Text

from hutch.cli.approvals import Asking, terminal
from hutch.cli.exit_codes import FAILED, INTERRUPTED, OK
from hutch.cli.printable import printable
from hutch.cli.profile import FOLLOW_FOR_S
from hutch.cli.questions import lines
from hutch.cli.show import Show
from hutch.client import Client, ClientError, Stream
from hutch.client import events as ev
from hutch.client.events import Event
from hutch.client.models import Run
from hutch.client.run_options import RunOptions

WAITS: Final = {
    "session": "the session's run before it has not ended",
    "user_limit": "you have as many runs at once as your tier allows",
    "pool_empty": "no container is ready, and one is being made",
    "capacity": "all containers are in use",
    "memory": "the server is short of memory",
    "others_first": "others have waited longer for a container",
}
UNDECIDED: Final = {
    "timeout": "nobody has decided in time",
    "cancel": "the run is being ended",
    "agent": "the agent asks no longer",
}


def run(
    client: Client, provider: str, prompt: str, *, as_json: bool, **options: Unpack[RunOptions]
) -> int:
    """Stream a run to the terminal; Ctrl-C cancels it. Returns the exit code."""
    asks = options.get("permission_mode") == "ask" and not as_json
    ask = terminal() if asks else None
    begun = begin(client, provider, prompt, **options)
    show: Show = Json() if as_json else Asking(Plain(), client, ask)
    stream = client.with_options(retry_for_s=FOLLOW_FOR_S).follow(begun.id)
    return _exit_code(follow(stream, show, interrupted=stream.cancel))


def begin(client: Client, provider: str, prompt: str, **options: Unpack[RunOptions]) -> Run:
    """Ctrl-C before the answer leaves no run behind that nobody knows of: the same key finds it."""
    if options.get("idempotency_key") is None:
        options["idempotency_key"] = secrets.token_hex(16)
    try:
        return client.submit(provider, prompt, **options)
    except KeyboardInterrupt:
        with suppress(ClientError):
            begun = client.submit(provider, prompt, **options)
            client.cancel(begun.id)
        raise


def last_session(client: Client, provider: str) -> str | None:
    """None: there is none yet, and a new one begins."""
    return next((s.id for s in client.sessions(limit=100) if s.provider == provider), None)


def logs(client: Client, run_id: str, *, live: bool, after: int, as_json: bool) -> int:
    """The events of a run. Ctrl-C ends the looking, not the run."""
    show = Json() if as_json else Plain()
    if live:
        stream = client.with_options(retry_for_s=FOLLOW_FOR_S).follow(run_id, after=after)
        last = follow(stream, show, interrupted=None)
        return OK if last is None and client.get_run(run_id).finished else _exit_code(last)
    try:
        while True:
            page = client.event_page(run_id, after=after)
            for raw in page.events:
                show.event(ev.parse(raw))
            if page.finished or not page.events:
                return OK
            after = page.next
    finally:
        show.close()


def follow(stream: Stream, show: Show, *, interrupted: Callable[[], object] | None) -> Event | None:
    """Show events to the last one, which is returned. Ctrl-C calls ``interrupted`` and goes on, a
    second one gives up.
    """
    last: Event | None = None
    try:
        while True:
            try:
                for event in stream:
                    last = event
                    show.event(event)
                return last
            except KeyboardInterrupt:
                if interrupted is None:
                    return None
                interrupted()
                interrupted = None
    finally:
        show.close()


def _exit_code(last: Event | None) -> int:
    if not isinstance(last, ev.RunFinished):
        return INTERRUPTED
    return {"error": FAILED, "cancelled": INTERRUPTED}.get(last.stop_reason, OK)


class Json:
    def event(self, event: Event) -> None:
        sys.stdout.write(json.dumps(dict(event.raw), ensure_ascii=True) + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        pass


class Plain:
    """The answer on standard output, everything else on standard error."""

    def __init__(self) -> None:
        self._streamed = False  # the block of text under way came as deltas
        self._in_line = False
        self.notes = Notes(before=self._end_line)

    def event(self, event: Event) -> None:
        match event:
            case ev.TextDelta(text=text):
                self._streamed = True
                self._write(text)
            case ev.Text(text=text):
                if not self._streamed:
                    self._write(text)
                self._streamed = False
                self._end_line()
                self.notes.working()
            case ev.RunFinished():
                self._end_line()
                self.notes.event(event)
            case _:
                self.notes.event(event)

    def close(self) -> None:
        self.notes.close()
        self._end_line()

    def _write(self, text: str) -> None:
        self.notes.quiet()
        text = printable(text)
        sys.stdout.write(text)
        sys.stdout.flush()
        self._in_line = bool(text) and not text.endswith("\n")

    def _end_line(self) -> None:
        if self._in_line:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._in_line = False


class Notes:
    """What is told beside the answer, and a spinner while nothing is told. On standard error; the
    spinner on a terminal only.
    """

    def __init__(self, *, before: Callable[[], None]) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._before = before
        self._status: Status | None = None
        self.working("starting")

    def working(self, what: str = "working") -> None:
        if not self.console.is_terminal:
            return
        self._before()
        if self._status is None:
            self._status = self.console.status("")
            self._status.start()
        self._status.update(Text(f"{printable(what)} …", style="dim"))

    def quiet(self) -> None:
        """Nothing moves while somebody else writes."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def close(self) -> None:
        self.quiet()

    def event(self, event: Event) -> None:
        match event:
            case ev.RunStarted():
                self.working()
            case ev.ReasoningDelta():
                self.working("thinking")
            case ev.ToolStarted(kind=kind, input=given):
                self._note(f"▸ {kind} {brief(given)}", "cyan")
                self.working(f"running {kind}")
            case ev.ToolFinished(ok=ok, output=output):
                if not ok:
                    self._note(f"  failed: {brief(output)}", "red")
                self.working()
            case ev.ApprovalRequested():
                self._asked(event)
            case ev.ApprovalDecided(decision=decision, by=by):
                if by != "user":
                    self._note(f"  {decision}: {UNDECIDED.get(by, by)}", "yellow")
                self.working()
            case ev.Queued(position=position, reason=reason):
                why = WAITS.get(reason, "it is queued")
                self._note(f"… waiting, number {position}: {why}", "yellow")
                self.working("waiting")
            case ev.Retrying(code=code):
                self._note(f"… the model API is slow or limits us ({code})", "yellow")
            case ev.AgentRestarted(reason=reason):
                self._note(f"… the agent was restarted: {reason}", "yellow")
            case ev.Truncated(dropped_bytes=dropped):
                self._note(f"… {dropped} bytes were left out", "yellow")
            case ev.RunFinished(error=error, stop_reason=reason):
                self.quiet()
                if error:
                    self._note(f"{error.get('message')} ({error.get('code')})", "red")
                elif reason != "end_turn":
                    self._note(f"The turn ended: {reason}.", "yellow")

    def _asked(self, event: ev.ApprovalRequested) -> None:
        self.quiet()
        for line, style in lines(
            event.kind, event.name, event.input, event.diff, truncated=event.truncated
        ):
            self._note(line, style)
        self._note(f"  ({event.run_id} {event.approval_id})", "dim")

    def _note(self, text: str, style: str) -> None:
        self._before()
        self.console.print(Text(printable(text), style=style))


def brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= 100 else text[:99] + "…"
