"""``hutch chat``: a conversation on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from rich.console import Console
from rich.text import Text

from hutch.cli.approvals import Asking, terminal
from hutch.cli.markdown import MarkdownView
from hutch.cli.printable import printable
from hutch.cli.profile import FOLLOW_FOR_S
from hutch.cli.run import Plain, begin, follow
from hutch.cli.show import Show
from hutch.client import ApiError, Client

_HELP: Final = """\
Enter sends, Alt-Enter begins a new line, ↑ and ↓ go through what you said before.
Ctrl-C ends the turn, Ctrl-D the conversation.
/new            begin another session
/model NAME     another model from now on; without a name the CLI's own
/session        which session this is
/ask, /auto     whether the agent asks you before it changes something
/help           this"""


class Chat:
    """Says one thing at a time, and remembers the session."""

    def __init__(
        self,
        client: Client,
        provider: str,
        *,
        model: str | None,
        session_id: str | None,
        console: Console,
        asks: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        self._client = client
        self._patient = client.with_options(retry_for_s=FOLLOW_FOR_S)
        self._provider = provider
        self._model = model
        self.session_id = session_id
        self._console = console
        self._ask = terminal() if asks else None
        self._mode = "ask" if asks else None  # None: as the service has it
        self._timeout_s = timeout_s  # of each turn

    def say(self, text: str) -> None:
        """A turn, or a command. What the service refuses is told, and ends nothing."""
        word, _, rest = text.partition(" ")
        match word:
            case "/help":
                self._console.print(Text(_HELP))
            case "/new":
                self.session_id = None
                self._note("A new session begins with what you say next.")
            case "/model":
                self._model = rest.strip() or None
                self._note(f"The model is {printable(self._model or 'the default of the CLI')}.")
            case "/ask":
                self._ask, self._mode = terminal(), "ask"
                self._note("The agent asks you before it changes something.")
            case "/auto":
                self._ask, self._mode = None, "auto"
                self._note("The agent does what it wants, inside its container.")
            case "/session":
                self._note(self.session_id or "None yet: it begins with what you say next.")
            case _:
                self._turn(text)

    def _turn(self, prompt: str) -> None:
        show: Show = MarkdownView(self._console) if self._console.is_terminal else Plain()
        show = Asking(show, self._client, self._ask)
        try:
            run = begin(
                self._client,
                self._provider,
                prompt,
                model=self._model,
                session_id=self.session_id,
                permission_mode=self._mode,
                timeout_s=self._timeout_s,
            )
            self.session_id = run.session_id
            stream = self._patient.follow(run.id)
            follow(stream, show, interrupted=stream.cancel)
        except ApiError as error:
            show.close()
            self._note(f"{error}\n{error.hint}".strip(), style="red")
        except KeyboardInterrupt:  # a second one, while the turn was ending
            show.close()

    def _note(self, text: str, *, style: str = "dim") -> None:
        self._console.print(Text(printable(text), style=style))


def chat(
    client: Client,
    provider: str,
    *,
    model: str | None,
    session_id: str | None,
    asks: bool,
    timeout_s: float | None,
) -> None:
    console = Console(highlight=False)
    talk = Chat(
        client,
        provider,
        model=model,
        session_id=session_id,
        console=console,
        asks=asks,
        timeout_s=timeout_s,
    )
    ask = _asking(provider)
    while True:
        try:
            text = ask()
        except KeyboardInterrupt:
            continue
        except EOFError:
            break
        if text.strip():
            talk.say(text.strip())
    if talk.session_id:
        sys.stderr.write(f"hutch chat {provider} --session {talk.session_id} goes on with this.\n")


def _asking(provider: str) -> Callable[[], str]:
    if not sys.stdin.isatty():
        return lambda: _line(sys.stdin.readline())
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        history=_history(), multiline=True, key_bindings=keys, prompt_continuation="  "
    )
    return lambda: session.prompt(f"{provider}> ")


def _line(text: str) -> str:
    if not text:
        raise EOFError
    return text


def _history() -> History:
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(home) / "hutch" / "chat-history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
