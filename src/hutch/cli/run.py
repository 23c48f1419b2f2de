"""``hutch run``: a prompt, and what the agent does with it as it comes."""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from hutch.cli.printable import printable
from hutch.client import Client

_WAITS: Final = {
    "session": "the session's run before it has not ended",
    "user_limit": "you have as many runs at once as your tier allows",
    "pool_empty": "no container is ready, and one is being made",
    "capacity": "all containers are in use",
    "memory": "the server is short of memory",
    "others_first": "others have waited longer for a container",
}


def run(client: Client, provider: str, prompt: str, *, as_json: bool, **options: Any) -> int:
    """Stream a run to the terminal; Ctrl-C cancels it. Returns the exit code."""
    events = client.run(provider, prompt, **options)
    run_id = ""
    last: dict[str, Any] = {}
    show = _Json() if as_json else _Plain()
    while True:
        try:
            for event in events:
                run_id = event["run_id"]
                last = event
                show.event(event)
            break
        except KeyboardInterrupt:
            if not run_id or show.cancelling:
                return 130
            show.cancelling = True
            client.cancel(run_id)
            events = client.follow(run_id, after=int(last["seq"]))
    if last.get("type") != "run.finished":
        sys.stderr.write(f"The stream broke off; `hutch run` was following {run_id}.\n")
        return 1
    return {"error": 1, "cancelled": 130}.get(str(last["stop_reason"]), 0)


class _Json:
    cancelling = False

    def event(self, event: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(event, ensure_ascii=True) + "\n")
        sys.stdout.flush()


class _Plain:
    """The answer on standard output, everything else on standard error."""

    cancelling = False

    def __init__(self) -> None:
        self._notes = Console(stderr=True, highlight=False)
        self._streamed = False  # the block of text under way came as deltas
        self._in_line = False

    def event(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "text.delta":
                self._streamed = True
                self._write(event["text"])
            case "text":
                if not self._streamed:
                    self._write(event["text"])
                self._streamed = False
                self._end_line()
            case "tool.started":
                self._note(f"▸ {event['kind']} {_brief(event['input'])}", "cyan")
            case "tool.finished" if not event["ok"]:
                self._note(f"  failed: {_brief(event['output'])}", "red")
            case "queued":
                why = _WAITS.get(event["reason"], "it is queued")
                self._note(f"… waiting, number {event['position']}: {why}", "yellow")
            case "retrying":
                self._note(f"… the model API is slow or limits us ({event['code']})", "yellow")
            case "agent.restarted":
                self._note(f"… the agent was restarted: {event['reason']}", "yellow")
            case "truncated":
                self._note(f"… {event['dropped_bytes']} bytes were left out", "yellow")
            case "run.finished":
                self._finish(event)

    def _finish(self, event: dict[str, Any]) -> None:
        self._end_line()
        if event["error"]:
            error = event["error"]
            self._note(f"{error['message']} ({error['code']})", "red")
        elif event["stop_reason"] != "end_turn":
            self._note(f"The turn ended: {event['stop_reason']}.", "yellow")

    def _write(self, text: str) -> None:
        text = printable(text)
        sys.stdout.write(text)
        sys.stdout.flush()
        self._in_line = bool(text) and not text.endswith("\n")

    def _end_line(self) -> None:
        if self._in_line:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._in_line = False

    def _note(self, text: str, style: str) -> None:
        self._end_line()
        self._notes.print(Text(printable(text), style=style))


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= 100 else text[:99] + "…"
