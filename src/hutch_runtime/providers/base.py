"""What the runtime asks of a provider: agents, which are conversations ready for a turn.

A driver knows one CLI. For Claude an agent is a process; Codex and Gemini keep many sessions in one
process, which their driver owns, starts when needed and starts again when it died. The pool
(``hutch_runtime.agents``) sees agents only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias
from urllib.parse import urlsplit

from hutch_runtime.approvals import Question, Verdict
from hutch_runtime.attachments import Placed
from hutch_runtime.home import Home
from hutch_runtime.identity import Identity
from hutch_runtime.protocol import ErrorCode, EventType, Options, Provider, StopReason

# Where a gateway serves sandboxes that have no address of their own, it knows them by their key.
SHARED_HOST: Final = "127.0.0.1"

# Of the user's MCP servers, which must not keep a turn from its end: one that has not started by
# then is left out of the conversation, a call that takes longer has failed.
MCP_START_S: Final = 10
MCP_CALL_S: Final = 120


class AgentDied(Exception):
    """The CLI process ended in the middle of a turn; the text says how, for a user to read."""


class AgentStartFailed(Exception):
    """The CLI process could not be started or did not become ready; the text says why."""


class SessionNotFound(Exception):
    """The CLI has no such session."""


@dataclass(frozen=True, slots=True)
class RunError:
    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn ended. ``text`` is the last block of the answer, "" if there was none; ``error``
    is set exactly when ``stop_reason`` is ``error``.
    """

    stop_reason: StopReason
    error: RunError | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Setup:
    """What every driver is made from: ``ClaudeDriver(setup)``, ``CodexDriver(setup)``, …"""

    argv: tuple[str, ...]  # how to start the CLI; arguments go behind it
    workspace: Path  # the agents' working directory
    home: Home
    gateway_url: str  # no slash at the end; a provider's base URL is f"{gateway_url}/{provider}"
    placeholder_key: (
        str  # what the CLI takes for its API key; the gateway swaps it for the real one
    )
    # PATH, HOME and the like. An agent gets these and what its driver adds, nothing of ours.
    environment: Mapping[str, str]
    identity: Identity = field(default_factory=Identity)
    # True: the CLI pays with a login of its own, which it renews itself through the gateway.
    login: bool = False
    # True: the sandbox is nobody's yet, so that what a first agent asks the gateway costs nobody.
    rehearse: bool = False

    @property
    def proxy(self) -> dict[str, str]:
        """The variables by which an agent's commands, and a CLI's sign-in, reach other hosts:
        through the gateway. Some programs read the one spelling, some the other.
        """
        parts = urlsplit(self.gateway_url)
        host, url = parts.hostname or "", self.gateway_url
        if host == SHARED_HOST:
            url = f"{parts.scheme}://sandbox:{self.placeholder_key}@{parts.netloc}"
        variables = {
            "HTTP_PROXY": url,
            "HTTPS_PROXY": url,
            "NO_PROXY": f"{host},127.0.0.1,localhost",
        }
        return {**variables, **{name.lower(): value for name, value in variables.items()}}


PLAIN: Final = Options()
# Waits for a person, and always ends.
Ask: TypeAlias = Callable[[Question], Awaitable[Verdict]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked in one turn. ``model`` None is the CLI's default, also after a turn with
    another one. ``options``: those that the agent was made with, and that need no agent of their
    own. ``ask``: whom the agent has to ask in this turn, and in this one alone; None is nobody.
    """

    text: str
    model: str | None = None
    options: Options = PLAIN
    placed: tuple[Placed, ...] = ()
    ask: Ask | None = None


class Turn(Protocol):
    """Where a provider puts what happens during one prompt."""

    def emit(self, event_type: EventType, /, **fields: Any) -> None:
        """Add an event to the run's log. Never blocks; size limits are the log's business.
        ``run.started`` and ``run.finished`` are the caller's, not a provider's.
        """
        ...


class Agent(Protocol):
    """One session of one provider, ready for a prompt. The caller gives it one at a time."""

    @property
    def session(self) -> str:
        """The CLI's own id of the session, by which ``Driver.resume`` finds it again."""
        ...

    @property
    def resumed(self) -> Literal["resumed", "replayed"] | None:
        """How an earlier session was taken up; None for one that began with this agent."""
        ...

    @property
    def alive(self) -> bool: ...

    @property
    def pid(self) -> int | None:
        """Of the process that serves it, shared or not; None when there is none."""
        ...

    async def prompt(self, prompt: Prompt, turn: Turn) -> Outcome:
        """Run one turn.

        Raises ``AgentDied`` if the process ends meanwhile. A failure that the CLI reports is an
        ``Outcome`` and leaves the agent usable. When the task is cancelled the agent is not used
        again, only closed.
        """
        ...

    async def cancel(self) -> None:
        """Ask the CLI to end the running turn, which then ends with ``cancelled``; returns without
        waiting for that. Does nothing when no turn runs.
        """
        ...

    async def gone(self) -> str:
        """Wait until the agent is dead, for whatever cause; returns the reason in a few words."""
        ...

    async def close(self) -> None:
        """Let go of the session in memory (its files stay); ends the process if it is the agent's
        own. Bounded in time, never raises, may be called twice.
        """
        ...


class Driver(Protocol):
    @property
    def provider(self) -> Provider: ...

    @property
    def shares_process(self) -> bool:
        """True: idle agents cost next to nothing, since one process holds all of them."""
        ...

    @property
    def keeps_options(self) -> bool:
        """True: what an agent was made with stays with its session, so that it may serve later
        turns as well.
        """
        ...

    def makes_own(self, options: Options) -> bool:
        """Whether they need an agent that was made with them."""
        ...

    async def spare(self, options: Options = PLAIN) -> Agent:
        """A new session, as near to answering its first prompt as can be had without one. Returns
        when it is ready. Raises ``AgentStartFailed``.
        """
        ...

    async def fork(self, session: str) -> str:
        """Another session with what has been said in this one, of which no agent is alive; its id.
        Raises ``SessionNotFound``, ``AgentStartFailed``.
        """
        ...

    async def resume(self, session: str, options: Options = PLAIN) -> Agent:
        """Take up an earlier session, of which no agent is alive. ``session`` comes from outside:
        whatever it holds must be safe as an argument and in a path. Raises ``SessionNotFound``,
        ``AgentStartFailed``.
        """
        ...

    async def rest(self) -> None:
        """End the process that the driver owns, if any; the next session starts it again. Bounded
        in time, never raises.
        """
        ...

    async def close(self) -> None:
        """End what the driver owns; agents may be alive. Bounded in time, never raises."""
        ...
