"""``hutch shell`` as a person sees it, in a terminal, under gVisor."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from pathlib import Path

from tests.integration.terminal import terminal
from tests.integration.test_terminal import environment
from tests.service import HUTCH, Service, User


def test_a_shell_with_full_screen_programs_that_outlives_its_connection(
    service: Service, user: User, tmp_path: Path
) -> None:
    given = environment(service, user, tmp_path)
    with terminal(tmp_path, str(HUTCH), "shell", environment=given) as seen:
        seen.wait_for("/workspace$")
        seen.type("X=of-this-shell; stty size", "Enter")
        seen.wait_for("\n40 100")
        seen.resize(110, 24)
        seen.type("stty size", "Enter")
        seen.wait_for("\n24 110")
        # Claude Code's own screen, through the gateway, with no question before.
        seen.type("claude", "Enter")
        seen.wait_for("Claude Code v", "\n\N{HEAVY RIGHT-POINTING ANGLE QUOTATION MARK ORNAMENT}")
        seen.type("remember this", "Enter")
        shown = seen.wait_for("you said")
        assert "API key" not in shown
        seen.resize(100, 40)
        seen.type("/exit")
        seen.wait_for("/exit")
        seen.type("Enter")
        seen.wait_for_last("/workspace$")
        # As a terminal that it has no questions for: an answer may come when it has ended.
        seen.type("TERM=vt100 vim note", "Enter")
        seen.wait_for('"note" [New]')
        seen.type("iwritten with vim", "Escape")
        seen.type(":wq", "Enter")
        seen.wait_for_last("/workspace$")
        seen.type("cat note", "Enter")
        seen.wait_for("\nwritten with vim")
        # The service restarts, and a command goes on meanwhile.
        seen.type("sleep 1; echo went-o''n", "Enter")
        service.kill("api")
        seen.wait_for("The connection broke")
        service.start("api")
        seen.wait_for("Connected again", "went-on")
        seen.type("echo still $X", "Enter")
        seen.wait_for("still of-this-shell")
        # Left, and come back to.
        seen.type("Enter", "~.")
        shown = seen.wait_until_over()
        (found,) = user.client.call("GET", "/v1/terminals")["terminals"]
        assert f"hutch shell --attach {found['id']}" in shown
    # tmux does not tell every program's exit code.
    telling = ("sh", "-c", '"$0" "$@"; echo "exit code $?"', str(HUTCH))
    again = (*telling, "shell", "--attach", str(found["id"]))
    with terminal(tmp_path, *again, environment=given) as seen:
        seen.type("echo once-more $X; exit 3", "Enter")
        seen.wait_for("once-more of-this-shell", "exit code 3")
    assert user.client.call("GET", "/v1/terminals")["terminals"] == []


def test_a_shell_that_is_killed_gives_the_terminal_back(
    service: Service, user: User, tmp_path: Path
) -> None:
    given = environment(service, user, tmp_path)
    argv = ("sh", "-c", '"$0" shell; echo "and then"; stty -a', str(HUTCH))
    with terminal(tmp_path, *argv, environment=given) as seen:
        seen.wait_for("/workspace$")
        os.kill(seen.child(), signal.SIGTERM)
        shown = seen.wait_for("and then", "echoke").partition("and then")[2]
        assert {"icanon", "echo", "isig", "opost"} <= set(shown.replace(";", "").split())


def test_pipes(service: Service, user: User, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    done = subprocess.run(
        [str(HUTCH), "shell", "--", "sh", "-c", "tee big | sha256sum; cat big; exit 7"],
        input=content,
        env={**os.environ, **environment(service, user, tmp_path)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == b""
    assert done.returncode == 7
    line, _, rest = done.stdout.partition(b"\n")
    assert line.decode() == f"{hashlib.sha256(content).hexdigest()}  -"
    assert rest == content
