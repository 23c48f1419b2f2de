"""Approvals on a terminal: what an agent wants to do is shown, and whoever sits there is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, TypeAlias

from rich.console import Console
from rich.text import Text

from hutch.cli.printable import printable
from hutch.cli.show import Show
from hutch.client import ApiError, Client
from hutch.client import events as ev
from hutch.client.events import Event
from hutch.errors import InvalidRequest

Decision: TypeAlias = Literal["allow", "always", "deny"]

_TERMINAL: Final = Path("/dev/tty")  # also where standard input is a pipe
_ANSWERS: Final[dict[str, Decision]] = {
    "y": "allow",
    "yes": "allow",
    "a": "always",
    "always": "always",
    "n": "deny",
    "no": "deny",
}
_QUESTION: Final = "Allow it? [y]es, [n]o, [a]lways: "


def terminal() -> Callable[[], str]:
    """Asks whoever sits there, and returns what was typed. Raises ``InvalidRequest`` where nobody
    does.
    """
    try:
        _TERMINAL.open().close()
    except OSError:
        raise InvalidRequest(
            "With --permission-mode ask somebody has to be asked, and there is no terminal.",
            hint="Leave it out, or use --json, and decide by `hutch runs approve`.",
        ) from None

    def ask() -> str:
        with _TERMINAL.open("w") as screen:
            screen.write(_QUESTION)
        with _TERMINAL.open() as keyboard:
            line = keyboard.readline()
        if not line:
            raise EOFError
        return line

    return ask


class Asking:
    """Shows a run, and has what it asks for decided. Ctrl-D, as no answer, is no. Without ``ask``,
    by whoever sits at the terminal, if there is one: the service may have runs ask by itself.
    """

    def __init__(self, show: Show, client: Client, ask: Callable[[], str] | None) -> None:
        self._show = show
        self._client = client
        self._ask = ask
        self._console = Console(stderr=True, highlight=False)

    def event(self, event: Event) -> None:
        self._show.event(event)
        if isinstance(event, ev.ApprovalRequested):
            self._decide(event)

    def close(self) -> None:
        self._show.close()

    def _decide(self, event: ev.ApprovalRequested) -> None:
        try:
            ask = self._ask or terminal()
        except InvalidRequest:  # it was shown, with the ids to decide by
            return
        try:
            known = self._client.approvals(event.run_id)
            if any(one.id == event.approval_id and one.decision is None for one in known):
                self._client.decide(event.run_id, event.approval_id, _answer(ask))
        except ApiError as error:  # another was faster, or the time was over
            self._console.print(Text(printable(str(error)), style="yellow"))


def _answer(ask: Callable[[], str]) -> Decision:
    while True:
        try:
            typed = ask().strip().lower()
        except EOFError:
            return "deny"
        if typed in _ANSWERS:
            return _ANSWERS[typed]
