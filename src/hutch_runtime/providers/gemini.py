"""Gemini CLI 0.61 as one ``gemini --acp`` per sandbox, with an ACP session for each session.

Started ahead, with a session made, it answers a first prompt in some 50 ms; ``gemini -p`` takes
1,700 ms for each.

**Resuming.** In 0.61 ``session/load`` with a session's id always fails, and leaves the session's
file worse than before: it opens a new recording under that id *before* it looks for the old one,
finds the new one, which is empty, and gives up; in the same minute the two even share a file. But
the search trims the id and the recording does not, so the id with a space in front finds the old
file and records apart. That is how ``resume`` loads: the whole conversation comes back, tool calls
included, and goes on in its own file. This stands on an accident: ``test_gemini.py`` holds it
against the real CLI, and a new CLI version must pass it.

**What it costs.** ACP has no way to unload a session, so a session that is let go of stays in the
process until that ends; it is taken up from there when it is asked for again.
"""

from __future__ import annotations

import re
from typing import Any, Final

from hutch_runtime.jsonrpc import METHOD_NOT_FOUND, ConnectionLost, RpcError
from hutch_runtime.protocol import Options, Provider
from hutch_runtime.providers.base import PLAIN, AgentStartFailed, SessionNotFound, Setup
from hutch_runtime.providers.gemini_agent import DEFAULT_MODEL, FREE, GeminiAgent
from hutch_runtime.providers.gemini_reports import TEMPORARY
from hutch_runtime.providers.gemini_settings import write_settings
from hutch_runtime.providers.rpc_process import RpcProcess, SharedProcess, new_session

_SESSION_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NOT_FOUND: Final = re.compile(r"No previous sessions found|Invalid session identifier")
# More than any history has messages; one round is answered in well under a millisecond.
_MAX_HISTORY_ROUNDS: Final = 100_000


def environment(setup: Setup) -> dict[str, str]:
    """What a ``gemini`` is started with, an agent or a person's own."""
    return {
        **setup.proxy,
        "GEMINI_API_KEY": setup.placeholder_key,
        "GOOGLE_GEMINI_BASE_URL": f"{setup.gateway_url}/gemini",
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
        "GEMINI_CLI_NO_RELAUNCH": "true",  # else a second Node process, 0.7 s later
    }


class GeminiDriver:
    provider: Final[Provider] = "gemini"
    shares_process: Final = True
    keeps_options: Final = True  # it has none

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._shared = SharedProcess(self._begin, self._greet)
        # Sessions that the running process holds: our id → ACP's.
        self._loaded: dict[str, str] = {}

    def makes_own(self, options: Options) -> bool:
        del options
        return False

    async def fork(self, session: str) -> str:
        raise AgentStartFailed(f"Gemini CLI cannot fork a session ({session})")

    async def spare(self, options: Options = PLAIN) -> GeminiAgent:
        del options
        process = await self._shared.get()
        try:
            result = await new_session(process, "session/new", self._place())
        except RpcError as error:
            raise AgentStartFailed(error.message) from error
        session = result.get("sessionId")
        if not isinstance(session, str):
            raise AgentStartFailed("session/new was answered without an id")
        self._loaded[session] = session
        agent = GeminiAgent(process, session, session, resumed=None, reports=self._setup.home)
        process.listen(session, agent)
        return agent

    async def resume(self, session: str, options: Options = PLAIN) -> GeminiAgent:
        del options
        if not _SESSION_ID.fullmatch(session):
            raise SessionNotFound(session)
        process = await self._shared.get()
        known = self._loaded.get(session)
        acp_session = known or f" {session}"
        agent = GeminiAgent(
            process,
            session,
            acp_session,
            resumed="resumed",
            reports=self._setup.home,
            mode=FREE if known is None else None,
        )
        process.listen(acp_session, agent)
        if known is None:
            try:
                await self._load(process, agent, acp_session)
            except BaseException:  # a cancelled caller must not leave a listener behind either
                process.unlisten(acp_session, agent)
                raise
            self._loaded[session] = acp_session
        return agent

    async def rest(self) -> None:
        await self._shared.rest()

    async def close(self) -> None:
        await self._shared.close()

    async def _load(self, process: RpcProcess, agent: GeminiAgent, acp_session: str) -> None:
        try:
            await new_session(process, "session/load", {"sessionId": acp_session, **self._place()})
            await self._let_history_pass(process, agent, acp_session)
        except RpcError as error:
            details = error.data.get("details") if isinstance(error.data, dict) else None
            text = details if isinstance(details, str) else error.message
            if _NOT_FOUND.search(text):
                raise SessionNotFound(agent.session) from error
            raise AgentStartFailed(text) from error

    async def _let_history_pass(
        self, process: RpcProcess, agent: GeminiAgent, acp_session: str
    ) -> None:
        """Wait until the conversation so far, which the CLI repeats after loading, has gone by.

        It writes one message after the other through one queue, so while it is at it one of them
        lies between any two answers that we get. Two answers with none between: it is done.
        """
        request = {"sessionId": acp_session, "modelId": DEFAULT_MODEL}
        for _ in range(_MAX_HISTORY_ROUNDS):
            heard = agent.updates
            try:
                await process.connection.request("session/set_model", request)
            except (ConnectionLost, TimeoutError) as error:
                raise AgentStartFailed(f"ended while it loaded: {error}") from error
            if agent.updates == heard:
                return
        raise AgentStartFailed("the history of the session does not end")

    async def _begin(self) -> RpcProcess:
        self._loaded = {}  # a new process holds none
        self._setup.home.make(TEMPORARY)
        write_settings(self._setup.home)
        process = RpcProcess("sessionId", lambda *request: _answer(process, *request))
        variables = {
            **environment(self._setup),
            "TMPDIR": str(self._setup.home.path / TEMPORARY),
        }
        arguments = ("--acp", "--approval-mode", FREE, "-m", DEFAULT_MODEL)
        await process.start(self._setup, arguments, variables)
        return process

    async def _greet(self, process: RpcProcess) -> None:
        await process.connection.request(
            "initialize", {"protocolVersion": 1, "clientCapabilities": {}}, timeout_s=None
        )
        key = {"api-key": self._setup.placeholder_key}
        await process.connection.request(
            "authenticate", {"methodId": "gemini-api-key", "_meta": key}
        )

    def _place(self) -> dict[str, Any]:
        return {"cwd": str(self._setup.workspace), "mcpServers": []}


def _answer(process: RpcProcess, method: str, params: dict[str, Any], line: str) -> object:
    """Answer the CLI's own requests."""
    listener = process.listener(params.get("sessionId"))
    if method == "session/request_permission":
        if isinstance(listener, GeminiAgent):
            return listener.permission(params)
        return {"outcome": {"outcome": "cancelled"}}  # of no session that anybody has
    if listener is not None:
        listener.unreadable(line)
    raise RpcError(METHOD_NOT_FOUND, f"{method} is not supported by this client")
