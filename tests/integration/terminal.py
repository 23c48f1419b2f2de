"""A real terminal: tmux, with a server of the test's own."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

_POLL_S = 0.1


class Terminal:
    def __init__(self, socket: Path) -> None:
        self._tmux = ("tmux", "-S", str(socket), "-f", "/dev/null")

    def start(self, argv: tuple[str, ...], environment: Mapping[str, str]) -> None:
        # What it is started with is what a program in it gets; its last screen stays to be seen.
        given = [part for name, value in environment.items() for part in ("-e", f"{name}={value}")]
        self._call("new-session", "-d", "-x", "100", "-y", "40", *given, *argv)
        self._call("set-option", "remain-on-exit", "on")

    def type(self, *keys: str) -> None:
        self._call("send-keys", *keys)

    def screen(self, *, colours: bool = False) -> str:
        return self._call("capture-pane", "-p", "-S", "-", *(["-e"] if colours else []))

    def wait_for(self, *texts: str, times: int = 1, within_s: float = 60) -> str:
        until = time.monotonic() + within_s
        while not all((screen := self.screen()).count(text) >= times for text in texts):
            assert time.monotonic() < until, f"{texts} did not come:\n{screen}"
            time.sleep(_POLL_S)
        return screen

    def wait_for_last(self, text: str, *, within_s: float = 60) -> None:
        """Until it is what the screen ends with."""
        until = time.monotonic() + within_s
        while not (screen := self.screen().rstrip()).endswith(text):
            assert time.monotonic() < until, f"{text} is not the last:\n{screen}"
            time.sleep(_POLL_S)

    def wait_until_over(self, *, within_s: float = 60) -> str:
        """Until the program has ended; what it has left on the screen."""
        until = time.monotonic() + within_s
        while self._call("display-message", "-p", "#{pane_dead}").strip() != "1":
            assert time.monotonic() < until, f"still running:\n{self.screen()}"
            time.sleep(_POLL_S)
        return self.screen()

    def resize(self, columns: int, rows: int) -> None:
        self._call("resize-window", "-x", str(columns), "-y", str(rows))

    def child(self) -> int:
        """The process id of what the program runs."""
        program = self._call("display-message", "-p", "#{pane_pid}").strip()
        [child] = Path(f"/proc/{program}/task/{program}/children").read_text().split()
        return int(child)

    def end(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self._call("kill-server")

    def _call(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._tmux, *arguments], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout


@contextlib.contextmanager
def terminal(directory: Path, *argv: str, environment: Mapping[str, str]) -> Iterator[Terminal]:
    made = Terminal(directory / "tmux")
    made.start(argv, environment)
    try:
        yield made
    finally:
        made.end()
