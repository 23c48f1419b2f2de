"""Whose turn it is: runs of a session one after the other, of a user a few at once. Pure.

Nothing here waits. What joins or leaves answers with the runs that may go from now on, each named
once. Every step costs the same however many wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from hutch.runs.models import Standing


@dataclass(slots=True)
class _User:
    at_once: int
    going: set[str] = field(default_factory=set)
    # First of their sessions, in the order in which they became that. A dict for its order.
    ready: dict[str, None] = field(default_factory=dict)


class Turns:
    def __init__(self) -> None:
        self._runs: dict[str, tuple[str, str]] = {}  # run: user, session
        self._sessions: dict[str, dict[str, None]] = {}  # session: its runs, the first goes first
        self._users: dict[str, _User] = {}
        self._held: set[str] = set()

    def join(
        self, run_id: str, user_id: str, session_id: str, *, at_once: int, begun: bool = False
    ) -> list[str]:
        """``at_once``: the user's limit from now on. One that has ``begun`` in an earlier process
        goes, whatever the limits say.
        """
        user = self._users.setdefault(user_id, _User(at_once))
        user.at_once = at_once
        self._runs[run_id] = (user_id, session_id)
        session = self._sessions.setdefault(session_id, {})
        session[run_id] = None
        if begun:
            user.going.add(run_id)
            return [run_id]
        if next(iter(session)) == run_id:
            user.ready[run_id] = None
        return self._grant(user_id)

    def leave(self, run_id: str) -> list[str]:
        """It has ended, or waits no longer."""
        user_id, session_id = self._runs.pop(run_id)
        user, session = self._users[user_id], self._sessions[session_id]
        user.going.discard(run_id)
        user.ready.pop(run_id, None)
        del session[run_id]
        if not session:
            del self._sessions[session_id]
        elif (first := next(iter(session))) not in user.going:
            user.ready.setdefault(first)
        granted = self._grant(user_id)
        if not user.going and not user.ready:
            del self._users[user_id]
        return granted

    def hold(self, user_id: str) -> None:
        """Let no further run of the user go until ``release``."""
        self._held.add(user_id)

    def release(self, user_id: str) -> list[str]:
        self._held.discard(user_id)
        return self._grant(user_id)

    def free(self, user_id: str, session_id: str, *, at_once: int) -> bool:
        """Whether a run that joined now would go at once."""
        user = self._users.get(user_id)
        return (
            user_id not in self._held
            and session_id not in self._sessions
            and (user is None or (not user.ready and len(user.going) < at_once))
        )

    def busy(self, session_id: str) -> bool:
        return session_id in self._sessions

    def going(self, user_id: str) -> list[str]:
        user = self._users.get(user_id)
        return list(user.going) if user is not None else []

    def standing(self, run_id: str) -> Standing | None:
        """What it waits for, and its number in that line; None if it may go."""
        user_id, session_id = self._runs[run_id]
        user, session = self._users[user_id], self._sessions[session_id]
        if run_id in user.going:
            return None
        if run_id not in user.ready:
            return Standing("session", list(session).index(run_id))
        return self._ready(user_id, list(user.ready).index(run_id))

    def standings(self) -> Iterator[tuple[str, Standing | None]]:
        """Of every run, in one pass over all."""
        for user_id, user in self._users.items():
            for run_id in user.going:
                yield run_id, None
            for index, run_id in enumerate(user.ready):
                yield run_id, self._ready(user_id, index)
        for session in self._sessions.values():
            for ahead, run_id in enumerate(session):
                if ahead:
                    yield run_id, Standing("session", ahead)

    def _ready(self, user_id: str, index: int) -> Standing:
        held = user_id in self._held
        return Standing("others_first" if held else "user_limit", index + 1)

    def _grant(self, user_id: str) -> list[str]:
        user = self._users.get(user_id)
        granted: list[str] = []
        if user is None or user_id in self._held:
            return granted
        while user.ready and len(user.going) < user.at_once:
            run_id = next(iter(user.ready))
            del user.ready[run_id]
            user.going.add(run_id)
            granted.append(run_id)
        return granted
