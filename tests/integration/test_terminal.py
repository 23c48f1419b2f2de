"""``hutch`` as a person sees it: in a terminal, typing."""

from __future__ import annotations

from pathlib import Path

from tests.integration.terminal import terminal
from tests.service import HUTCH, Service, User


def environment(service: Service, user: User, home: Path) -> dict[str, str]:
    return {
        "HUTCH_URL": service.url,
        "HUTCH_API_KEY": user.key,
        "HUTCH_DATA_DIR": "/nonexistent",
        "HOME": str(home),
        "XDG_STATE_HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
    }


def test_chat(service: Service, user: User, tmp_path: Path) -> None:
    chat = (str(HUTCH), "chat", "codex")
    with terminal(tmp_path, *chat, environment=environment(service, user, tmp_path)) as seen:
        seen.wait_for("codex>")
        seen.type("remember **this**", "Enter")
        first = seen.wait_for("you said", "codex>")
        assert first.count("you said") == 1
        assert "**this**" in first.split("you said")[0]  # as it was typed
        assert '"remember this"' in first.replace("\n", " ")  # rendered
        # Ctrl-C ends the turn, and nothing else.
        seen.type("[[slow:600,50]] go on and on", "Enter")
        service.model.wait_asked("[[slow:600,50]] go on and on")
        seen.wait_for("token5")
        seen.type("C-c")
        seen.wait_for("The turn ended: cancelled.")
        # The session goes on, and history has what was said.
        seen.type("[[recall]]", "Enter")
        seen.wait_for("codex>", times=4)
        seen.type("Up")
        seen.wait_for("codex> [[recall]]", times=2)
        seen.type("C-c")
        seen.type("/session", "Enter")
        session = user.client.call("GET", "/v1/sessions")["sessions"][0]["id"]
        seen.wait_for(session)
        seen.type("C-d")
        seen.wait_for(f"--session {session}")
    runs = user.client.call("GET", "/v1/runs")["runs"]
    assert [run["state"] for run in runs] == ["succeeded", "cancelled", "succeeded"]
    assert "remember **this**" in runs[0]["text"]
    assert (tmp_path / "hutch" / "chat-history").stat().st_mode & 0o777 == 0o600


def test_run(service: Service, user: User, tmp_path: Path) -> None:
    prompt = "[[slow:8,50]] [[tool:shell echo done]]"
    run = (str(HUTCH), "run", "codex", prompt)
    with terminal(tmp_path, *run, environment=environment(service, user, tmp_path)) as seen:
        shown = seen.wait_until_over()
        assert "▸ shell" in shown
        assert shown.count("you said") == 1
        assert not {"working …", "starting …"} & set(shown.splitlines())  # what moved is gone
        assert "\x1b[3" in seen.screen(colours=True)
    plain = {**environment(service, user, tmp_path), "NO_COLOR": "1"}
    with terminal(tmp_path, *run, environment=plain) as seen:
        assert "▸ shell" in seen.wait_until_over()
        assert "\x1b[3" not in seen.screen(colours=True)
