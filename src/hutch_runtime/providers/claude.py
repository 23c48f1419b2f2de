"""Claude Code: one process per session, spoken to in stream-json."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import json
import os
import uuid
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final, Literal

from hutch_runtime.approvals import Verdict
from hutch_runtime.attachments import note
from hutch_runtime.home import Home
from hutch_runtime.identity import Identity
from hutch_runtime.process import Process, ProcessGone
from hutch_runtime.protocol import APPROVAL_OPTIONS, LINE_MAX_BYTES, MIB, Options, Provider
from hutch_runtime.providers.base import (
    MCP_CALL_S,
    MCP_START_S,
    PLAIN,
    AgentDied,
    AgentStartFailed,
    Outcome,
    Prompt,
    RunError,
    SessionNotFound,
    Setup,
    Turn,
)
from hutch_runtime.providers.claude_lines import ClaudeTurn
from hutch_runtime.providers.claude_permissions import Asking, answer, question

# Measured 0.3 to 0.7 s; a sandbox that shares a busy host is slower, one that hangs never comes.
READY_TIMEOUT_S: Final = 30.0
CONTROL_TIMEOUT_S: Final = 10.0  # set_model takes 2 to 15 ms
REASON_MAX_CHARS: Final = 300
SESSIONS_KEPT: Final = 256
SESSION_MAX_BYTES: Final = 64 * MIB  # more than a home holds
PROJECTS_MAX: Final = 1000  # directories that it was started in: the workspace, as a rule
_PROJECTS: Final = ".claude/projects"
_FREE: Final = "bypassPermissions"
# What a person allowed for good can have made the second of the first.
_ASKING: Final = ("default", "acceptEdits")

_ARGUMENTS: Final = (
    "-p",
    "--input-format=stream-json",
    "--output-format=stream-json",
    "--verbose",
    "--include-partial-messages",
    f"--permission-mode={_FREE}",
    # It asks us, where it asks at all: which it does can be said between two turns.
    "--permission-prompt-tool=stdio",
    # Tools that wait for an answer in words, which it has only where it can ask.
    "--disallowedTools=AskUserQuestion,EnterPlanMode,ExitPlanMode",
)


# Giving memory back and collecting on other threads are dear under gVisor: without both a turn of
# 84 ms becomes one of 66, for 45 MB more (docs/decisions/0009).
_UNDER_GVISOR: Final = {"MIMALLOC_PURGE_DELAY": "-1", "BUN_JSC_useConcurrentGC": "0"}


def environment(setup: Setup) -> dict[str, str]:
    """All that a ``claude`` is started with, an agent or a person's own."""
    given = {
        **setup.environment,
        **setup.proxy,
        "ANTHROPIC_BASE_URL": f"{setup.gateway_url}/claude",
        "ANTHROPIC_API_KEY": setup.placeholder_key,
        # Else it reports to api.anthropic.com, with the key, whatever the base URL.
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "MCP_TIMEOUT": str(MCP_START_S * 1000),
        "MCP_TOOL_TIMEOUT": str(MCP_CALL_S * 1000),
        "CLAUDE_CODE_MAX_RETRIES": "2",  # ten take minutes, and a run's caller can retry
    }
    if setup.login:
        del given["ANTHROPIC_API_KEY"]  # it would count before the login
    if not setup.identity.separate and os.geteuid() == 0:
        given["IS_SANDBOX"] = "1"  # else it refuses to work as root without questions
    return given


class ClaudeDriver:
    provider: Provider = "claude"
    shares_process = False
    keeps_options = False

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        # Sessions that began here. The CLI writes a session down a moment after its first prompt,
        # so one whose agent dies at once is known to nobody else.
        self._begun: OrderedDict[str, None] = OrderedDict()
        self._rehearse = setup.rehearse

    def makes_own(self, options: Options) -> bool:
        # Each is a flag, or said once at the start: a second ``initialize`` is passed over.
        return bool(options.given - APPROVAL_OPTIONS)

    async def spare(self, options: Options = PLAIN) -> ClaudeAgent:
        session = str(uuid.uuid4())
        self._begun[session] = None
        while len(self._begun) > SESSIONS_KEPT:
            self._begun.popitem(last=False)
        agent = await self._start(session, None, options, f"--session-id={session}")
        if options.given:
            return agent  # somebody waits for it
        # The first alone: a later one may be somebody's, and its question would cost them.
        rehearse, self._rehearse = self._rehearse, False
        await agent.limber_up(rehearse=rehearse)
        return agent

    async def resume(self, session: str, options: Options = PLAIN) -> ClaudeAgent:
        session = _uuid(session)
        if self._file(session) is not None:
            return await self._start(session, "resumed", options, f"--resume={session}")
        if session in self._begun:
            return await self._start(session, "resumed", options, f"--session-id={session}")
        raise SessionNotFound(session)

    async def fork(self, session: str) -> str:
        """``--fork-session`` writes the new session down at its first prompt, and not now, so its
        file is copied: it names its session on each line, and nothing else depends on the name.
        """
        session, other = _uuid(session), str(uuid.uuid4())
        name = self._file(session)
        if name is None:
            raise SessionNotFound(session)
        try:
            copy_session(self._setup.home, name, session, other)
        except OSError as error:
            raise AgentStartFailed(f"the session could not be copied: {error.strerror}") from None
        return other

    async def rest(self) -> None:
        """Nothing of its own: each agent has its process."""

    async def close(self) -> None:
        """The same."""

    def _file(self, session: str) -> str | None:
        """Its name in the home directory."""
        home = self._setup.home
        try:
            projects = home.names(_PROJECTS, PROJECTS_MAX)
        except OSError:
            return None
        for project in projects:
            name = f"{_PROJECTS}/{project}/{session}.jsonl"
            with contextlib.suppress(OSError):
                home.look(name)
                return name
        return None

    async def _start(
        self,
        session: str,
        resumed: Literal["resumed"] | None,
        options: Options,
        *arguments: str,
    ) -> ClaudeAgent:
        workspace = Home(self._setup.workspace, self._setup.identity)
        agent = ClaudeAgent(session, resumed, options, workspace=workspace)
        arguments = (*arguments, *_flags(options))
        try:
            await agent.start(
                (*self._setup.argv, *_ARGUMENTS, *arguments),
                self._setup.workspace,
                {**environment(self._setup), **_UNDER_GVISOR},
                self._setup.identity,
            )
        except BaseException:
            await agent.close()
            raise
        return agent


class ClaudeAgent:
    def __init__(
        self,
        session: str,
        resumed: Literal["resumed"] | None,
        options: Options = PLAIN,
        *,
        workspace: Home,
    ) -> None:
        self._options = options
        self._workspace = workspace
        self._session = session
        self._resumed = resumed
        self._process: Process | None = None
        self._gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._asked = 0
        self._model: str | None = None
        self._mode = _FREE
        self._asking: Asking | None = None  # in a turn that has to ask
        self._turn: ClaudeTurn | None = None
        self._emit: Turn | None = None
        self._outcome: asyncio.Future[Outcome] | None = None
        self._cancelled = False
        # A turn that nobody asked us for: the CLI begins one when a background task of its ends.
        self._own_turn = False
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._writes: set[asyncio.Task[None]] = set()

    @property
    def session(self) -> str:
        return self._session

    @property
    def resumed(self) -> Literal["resumed"] | None:
        return self._resumed

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive and not self._gone.done()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.alive else None

    async def start(
        self, argv: tuple[str, ...], cwd: Path, environment: dict[str, str], identity: Identity
    ) -> None:
        """Start the CLI and wait until it is ready: it answers ``initialize`` only once it is, and
        a first prompt is then as fast as seconds later. Raises ``AgentStartFailed``.
        """
        try:
            self._process = await Process.start(
                argv,
                cwd=cwd,
                environment=environment,
                identity=identity,
                on_line=self._line,
                on_long_line=self._long_line,
                on_exit=self._exited,
            )
        except OSError as error:
            raise AgentStartFailed(f"claude could not be started: {error.strerror}") from None
        try:
            greeting = {"subtype": "initialize", **_greeting(self._options)}
            ready = await self._control(greeting, timeout_s=READY_TIMEOUT_S)
        except TimeoutError:
            raise AgentStartFailed(f"claude was not ready after {READY_TIMEOUT_S:.0f} s") from None
        except AgentDied as died:
            words = self._process.stderr_tail[-REASON_MAX_CHARS:]
            if words.startswith("No conversation found"):
                raise SessionNotFound(self._session) from None
            raise AgentStartFailed(f"claude ended at its start, {died}: {words}") from None
        if ready.get("subtype") != "success":
            said = str(ready.get("error", "no reason given"))[:REASON_MAX_CHARS]
            raise AgentStartFailed(f"claude refused the run's options: {said}")

    async def limber_up(self, *, rehearse: bool) -> None:
        """Go through what a first prompt needs, for the CLI to have loaded and compiled it: how
        full the conversation is, which asks nobody and, with ``rehearse``, a question beside it,
        which the gateway refuses. Neither is in the conversation afterwards. Under gVisor a first
        prompt of 141 to 220 ms becomes one of 106 to 132, with the rehearsal 92 to 98.
        """
        with contextlib.suppress(AgentDied, TimeoutError):  # the next prompt says so
            await self._control({"subtype": "get_context_usage", "detail": "summary"})
            if rehearse:
                await self._control({"subtype": "side_question", "question": "Ready?"})

    async def prompt(self, prompt: Prompt, turn: Turn) -> Outcome:
        self._cancelled = False
        await self._settle()
        if prompt.model != self._model:
            refusal = await self._set_model(prompt.model)
            if refusal is not None:
                return refusal
        await self._set_mode(asks=prompt.ask is not None)
        structured = self._options.output_schema is not None
        self._emit, self._turn = turn, ClaudeTurn(turn, structured=structured)
        self._outcome = asyncio.get_running_loop().create_future()
        if prompt.ask is not None:
            self._asking = Asking(prompt.ask, self._send)
        try:
            message = {"role": "user", "content": content(prompt)}
            await self._send({"type": "user", "message": message})
            return await self._outcome
        finally:
            if self._asking is not None:
                self._asking.close()
            self._turn = self._emit = self._outcome = self._asking = None

    async def cancel(self) -> None:
        self._cancelled = True
        with contextlib.suppress(AgentDied):  # the turn says so
            await self._interrupt()

    async def gone(self) -> str:
        return await asyncio.shield(self._gone)

    async def close(self) -> None:
        if self._process is not None:
            await self._process.close()
        self._exited("closed")

    async def _settle(self) -> None:
        """Stop a turn of the CLI's own, whose lines would be taken for the answer."""
        if not self._own_turn:
            return
        await self._interrupt()
        try:
            await asyncio.wait_for(self._quiet.wait(), CONTROL_TIMEOUT_S)
        except TimeoutError:
            raise AgentDied("it is busy with a turn of its own") from None

    async def _set_model(self, model: str | None) -> Outcome | None:
        try:
            said = await self._control({"subtype": "set_model", "model": model})
        except TimeoutError:
            raise AgentDied("it did not answer") from None
        if said.get("subtype") != "success":
            message = str(said.get("error", "the CLI refused this model"))
            return Outcome("error", RunError("provider_bad_request", message))
        self._model = model
        return None

    async def _set_mode(self, *, asks: bool) -> None:
        """Whether it asks before it does something, from now on. One that could not be told is not
        used: it would do what nobody allowed, or wait for an answer that nobody gives.
        """
        if self._mode in (_ASKING if asks else (_FREE,)):
            return
        mode = _ASKING[0] if asks else _FREE
        try:
            said = await self._control({"subtype": "set_permission_mode", "mode": mode})
        except TimeoutError:
            raise AgentDied("it did not answer") from None
        if said.get("subtype") != "success":
            raise AgentDied("its permission mode could not be set")
        self._mode = mode

    async def _interrupt(self) -> None:
        self._asked += 1
        request = {"subtype": "interrupt"}
        await self._send(
            {"type": "control_request", "request_id": f"i{self._asked}", "request": request}
        )

    async def _control(
        self, request: dict[str, Any], *, timeout_s: float = CONTROL_TIMEOUT_S
    ) -> dict[str, Any]:
        """Ask the CLI itself; returns its answer. Raises ``AgentDied``, ``TimeoutError``."""
        self._asked += 1
        request_id = f"c{self._asked}"
        answer = self._answers[request_id] = asyncio.get_running_loop().create_future()
        try:
            await self._send(
                {"type": "control_request", "request_id": request_id, "request": request}
            )
            return await asyncio.wait_for(answer, timeout_s)
        finally:
            del self._answers[request_id]

    async def _send(self, message: dict[str, Any]) -> None:
        if self._process is None:
            raise AgentDied("it was not started")
        try:
            await self._process.write(json.dumps(message).encode() + b"\n")
        except ProcessGone as gone:
            raise AgentDied(str(gone)) from None

    def _line(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            message = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            if self._turn is not None:
                self._turn.unparsed(line.decode(errors="replace"))
            return
        match message.get("type"):
            case "control_response":
                self._answered(message)
            case "control_request":
                self._requested(message)
                if _wants_a_tool(message):
                    return
            case "control_cancel_request":
                if self._asking is not None:
                    self._asking.withdraw(message.get("request_id"))
            case "conversation_reset":
                # "/clear" leaves the session for a new one. We keep the one that the caller knows:
                # the agent counts as gone, and the session is taken up from its files.
                self._leave("its conversation was cleared")
            case "system":
                if isinstance(mode := message.get("permissionMode"), str):
                    self._mode = mode
                if message.get("subtype") == "init":
                    self._turn_began()
            case _:
                pass
        self._feed(message)

    def _feed(self, message: dict[str, Any]) -> None:
        if self._turn is not None and self._outcome is not None:
            outcome = self._turn.feed(message, cancelled=self._cancelled)
            if outcome is not None and not self._outcome.done():
                self._outcome.set_result(outcome)
        elif message.get("type") == "result":
            self._own_turn = False
            self._quiet.set()

    def _turn_began(self) -> None:
        if self._turn is None:
            self._own_turn = True
            self._quiet.clear()
        elif self._cancelled:
            # An interrupt that comes before its turn has begun is answered and forgotten.
            self._later(self._interrupt())

    def _answered(self, message: dict[str, Any]) -> None:
        response = message.get("response")
        if isinstance(response, dict):
            answer = self._answers.get(str(response.get("request_id")))
            if answer is not None and not answer.done():
                answer.set_result(response)

    def _requested(self, message: dict[str, Any]) -> None:
        """It asks something of us; without an answer it would hang."""
        request_id = message.get("request_id")
        if not _wants_a_tool(message):
            error = {"subtype": "error", "request_id": request_id, "error": "not supported"}
            self._later(self._send({"type": "control_response", "response": error}))
            return
        request: dict[str, Any] = message["request"]
        if self._asking is not None:
            self._asking.ask(request_id, request, question(request, self._workspace))
        else:
            # Free to do what it wants in a run that asks nobody; outside of any, nobody is there.
            verdict: Verdict = "deny" if self._turn is None else "allow"
            self._later(self._send(answer(request_id, request, verdict)))

    def _later(self, work: Any) -> None:
        async def quietly() -> None:
            with contextlib.suppress(AgentDied):  # the turn says so
                await work

        task = asyncio.get_running_loop().create_task(quietly())
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    def _long_line(self, size: int) -> None:
        if self._emit is not None:
            self._emit.emit(
                "truncated", scope="line", limit_bytes=LINE_MAX_BYTES, dropped_bytes=size
            )
        # The result repeats the answer. Its other fields stand behind that one, and a text in it
        # can't look like them, for its quotes are escaped.
        end = self._process.long_line_end if self._process is not None else b""
        if b'"type":"result"' in end:
            failed = b'"is_error":true' in end
            subtype = "error_during_execution" if failed else "success"
            self._feed({"type": "result", "subtype": subtype, "is_error": failed})

    def _leave(self, reason: str) -> None:
        if not self._gone.done():
            self._gone.set_result(reason)

    def _exited(self, reason: str) -> None:
        self._leave(reason)
        for future in (*self._answers.values(), self._outcome):
            if future is not None and not future.done():
                future.set_exception(AgentDied(reason))


def _wants_a_tool(message: dict[str, Any]) -> bool:
    request = message.get("request")
    return isinstance(request, dict) and request.get("subtype") == "can_use_tool"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _uuid(session: str) -> str:
    try:
        return str(uuid.UUID(session))
    except ValueError:
        raise SessionNotFound(session) from None


def _flags(options: Options) -> tuple[str, ...]:
    """What can only be said at the launch. Turns and dollars are counted by process."""
    flags: tuple[str, ...] = ()
    if options.max_turns is not None:
        flags += (f"--max-turns={options.max_turns}",)
    if options.max_cost_usd is not None:
        flags += (f"--max-budget-usd={options.max_cost_usd:.6f}",)
    return flags


def _greeting(options: Options) -> dict[str, Any]:
    """What is said by ``initialize``: a text of any length, and in no argument."""
    said: dict[str, Any] = {}
    if options.system_prompt is not None:
        said["systemPrompt"] = [options.system_prompt]
    if options.append_system_prompt is not None:
        said["appendSystemPrompt"] = options.append_system_prompt
    if said:
        # Else a session keeps the system prompt that it began with, and this one were passed over.
        said["systemPromptSnapshot"] = False
    if options.output_schema is not None:
        said["jsonSchema"] = json.loads(options.output_schema)
    return said


def content(prompt: Prompt) -> str | list[dict[str, Any]]:
    """The prompt's text as it is; images as such, and where the files are."""
    if not prompt.placed:
        return prompt.text
    blocks: list[dict[str, Any]] = [
        {
            "type": "image",
            "source": {
                "type": "base64",
                "media_type": one.attachment.media_type,
                "data": base64.b64encode(one.attachment.content).decode(),
            },
        }
        for one in prompt.placed
        if one.attachment.is_image
    ]
    text = {"type": "text", "text": prompt.text}
    return [*blocks, {"type": "text", "text": note(prompt.placed)}, text]


def copy_session(home: Home, name: str, session: str, other: str) -> None:
    """Raises ``OSError``."""
    lines = home.read(name, SESSION_MAX_BYTES + 1)
    if len(lines) > SESSION_MAX_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    copy = name.removesuffix(f"{session}.jsonl") + f"{other}.jsonl"
    home.write(copy, lines.replace(session.encode(), other.encode()))
