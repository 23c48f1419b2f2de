"""Codex CLI 0.169 as one ``codex app-server`` per sandbox, with a thread for each session.

Started ahead, with threads ready, it answers a first prompt in some 40 ms; ``codex exec`` takes
140 ms for each and does not stream text. Threads are not ephemeral: a new process resumes them from
their rollout files in ``$CODEX_HOME/sessions``. A thread that never had a turn has no file, and
ends with its process.

Codex reads neither ``OPENAI_BASE_URL`` nor ``OPENAI_API_KEY``, so the gateway is a model provider
of its own in its configuration. A second ``turn/start`` on a busy thread is no error to it: it
steers the running turn.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Final

from hutch_runtime.jsonrpc import ConnectionLost, RpcError
from hutch_runtime.protocol import MIB, Options, Provider
from hutch_runtime.providers.base import PLAIN, AgentStartFailed, SessionNotFound, Setup
from hutch_runtime.providers.codex_agent import FREE, CodexAgent
from hutch_runtime.providers.codex_requests import answer_request
from hutch_runtime.providers.rpc_process import RpcProcess, SharedProcess, new_session

HOME: Final = ".codex"
_KEY_VARIABLE: Final = "HUTCH_KEY"
_WORKERS_VARIABLE: Final = "TOKIO_WORKER_THREADS"
# Codex's own words for a thread that has no rollout file.
_NOT_FOUND: Final = ("no rollout found", "thread not found", "invalid session id")
_THREAD_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Debian's: one bundle, and each certificate of it in a file of its own.
_ROOTS: Final = Path("/etc/ssl/certs")
_ROOTS_BUNDLE: Final = _ROOTS / "ca-certificates.crt"
_PROXY_VARIABLES: Final = frozenset({"HTTPS_PROXY", "ALL_PROXY"})
_QUIET: Final = (
    # Meant for Codex alone, not for the programs that its agent runs.
    *("-c", f'shell_environment_policy.exclude=["{_WORKERS_VARIABLE}"]'),
    *("-c", "analytics.enabled=false"),
    *("-c", "check_for_update_on_startup=false"),
    *("--disable", "plugins"),
    *("--disable", "apps"),
    # Else it waits for a gateway that is not there for ever (measured: more than ten minutes).
    *("--disable", "unbounded_connection_retries"),
)


def environment(setup: Setup) -> dict[str, str]:
    """What a ``codex`` is started with, an agent or a person's own."""
    given = {"CODEX_HOME": str(setup.home.path / HOME)}
    return given if setup.login else {**given, _KEY_VARIABLE: setup.placeholder_key}


def terminal_options(setup: Setup) -> tuple[str, ...]:
    """What a person's own ``codex`` is to be told before anything that they say themselves."""
    return (*_gateway(setup), *_QUIET[2:])


def _gateway(setup: Setup) -> tuple[str, ...]:
    # JSON's strings are TOML's basic strings.
    if setup.login:
        credential = {"requires_openai_auth": "true"}
    else:
        credential = {"env_key": json.dumps(_KEY_VARIABLE)}
    settings = {
        "name": json.dumps("hutch"),
        "base_url": json.dumps(f"{setup.gateway_url}/codex/v1"),
        **credential,
        "wire_api": json.dumps("responses"),
        "request_max_retries": "2",
        "stream_max_retries": "2",
    }
    table = ",".join(f"{name}={value}" for name, value in settings.items())
    return ("-c", "model_provider=hutch", "-c", f"model_providers.hutch={{{table}}}")


class CodexDriver:
    provider: Final[Provider] = "codex"
    shares_process: Final = True
    keeps_options: Final = True  # a thread's instructions are in its rollout file

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._shared = SharedProcess(self._begin, self._greet)
        self._default_model: str | None = None

    def makes_own(self, options: Options) -> bool:
        return bool(options.given & {"system_prompt", "append_system_prompt"})

    async def spare(self, options: Options = PLAIN) -> CodexAgent:
        process = await self._shared.get()
        try:
            # The history by pages writes each item to a database of its own as well, in every
            # turn; nothing here reads it (docs/decisions/0009).
            params = {**self._thread(), "historyMode": "legacy", **_instructions(options)}
            result = await new_session(process, "thread/start", params)
        except RpcError as error:
            raise AgentStartFailed(error.message) from error
        thread = result.get("thread")
        session = thread.get("id") if isinstance(thread, dict) else None
        if not isinstance(session, str):
            raise AgentStartFailed("thread/start was answered without an id")
        model = _model(result)
        self._default_model = self._default_model or model
        agent = CodexAgent(
            process, session, resumed=None, model=model, default_model=model, totals=(0, 0, 0)
        )
        process.listen(session, agent)
        return agent

    async def fork(self, session: str) -> str:
        if not _THREAD_ID.fullmatch(session):
            raise SessionNotFound(session)
        process = await self._shared.get()
        try:
            params = {"threadId": session, "excludeTurns": True, **self._thread()}
            result = await new_session(process, "thread/fork", params)
        except RpcError as error:
            raise _refusal(error, session) from error
        thread = result.get("thread")
        forked = thread.get("id") if isinstance(thread, dict) else None
        if not isinstance(forked, str):
            raise AgentStartFailed("thread/fork was answered without an id")
        # Its file is written; its first turn takes it up from there.
        with contextlib.suppress(ConnectionLost, RpcError, TimeoutError):
            await process.connection.request("thread/unsubscribe", {"threadId": forked})
        return forked

    async def resume(self, session: str, options: Options = PLAIN) -> CodexAgent:
        del options  # a thread has its instructions from its start
        if not _THREAD_ID.fullmatch(session):
            raise SessionNotFound(session)
        process = await self._shared.get()
        agent = CodexAgent(
            process, session, resumed="resumed", model=None, default_model=None, totals=None
        )
        # First, for the thread's token totals come right behind the answer.
        process.listen(session, agent)
        try:
            params = {"threadId": session, "excludeTurns": True, **self._thread()}
            result = await new_session(process, "thread/resume", params)
        except RpcError as error:
            process.unlisten(session, agent)
            raise _refusal(error, session) from error
        except AgentStartFailed:
            process.unlisten(session, agent)
            raise
        agent.model = _model(result)
        agent.default_model = self._default_model or agent.model
        return agent

    async def process(self) -> RpcProcess:
        """The running app-server, for a sign-in. Raises ``AgentStartFailed``."""
        return await self._shared.get()

    async def rest(self) -> None:
        await self._shared.rest()

    async def close(self) -> None:
        await self._shared.close()

    async def _begin(self) -> RpcProcess:
        # Codex refuses a CODEX_HOME that is not there.
        self._setup.home.make(HOME)
        process = RpcProcess("threadId", lambda *request: answer_request(process, *request))
        variables = {
            **environment(self._setup),
            # Under gVisor its threads cost more to wake than they save: a turn of 157 ms becomes
            # one of 113 (docs/decisions/0009). A turn mostly waits for the model.
            _WORKERS_VARIABLE: "1",
        }
        if self._setup.login:
            variables |= self._setup.proxy
        arguments = self._arguments()
        # For its commands alone: with a proxy of its own it would need all trusted roots.
        for name, value in self._setup.proxy.items():
            arguments += ("-c", f"shell_environment_policy.set.{name}={json.dumps(value)}")
        root = None if self._needs_tls() else _one_root()
        if root is not None:
            variables["SSL_CERT_FILE"] = str(root)
            # Commands get the whole bundle: what they speak to is not ours to know.
            bundle = json.dumps(str(_ROOTS_BUNDLE))
            arguments += ("-c", f"shell_environment_policy.set.SSL_CERT_FILE={bundle}")
        await process.start(self._setup, arguments, variables)
        return process

    def _needs_tls(self) -> bool:
        """Codex reads every trusted root again, several times, in each turn, also when its model
        provider is plain HTTP. Under gVisor one root makes a turn of 274 ms one of 194 ms
        (docs/decisions/0009). A sandbox reaches the gateway only; where there is a way past
        it, or a remote MCP server to reach, all roots stay; so they do for a login, whose
        tokens it renews over TLS.
        """
        if self._setup.login:
            return True
        if not self._setup.gateway_url.startswith("http://"):
            return True
        if any(name.upper() in _PROXY_VARIABLES for name in self._setup.environment):
            return True
        try:
            config = self._setup.home.read(f"{HOME}/config.toml", MIB + 1)
            return len(config) > MIB or b"https://" in config
        except FileNotFoundError:
            return False
        except OSError:
            return True

    async def _greet(self, process: RpcProcess) -> None:
        await process.connection.request(
            "initialize",
            {
                "clientInfo": {"name": "hutch", "title": None, "version": "1"},
                "capabilities": {"experimentalApi": True, "requestAttestation": False},
            },
        )
        await process.connection.notify("initialized")

    def _arguments(self) -> tuple[str, ...]:
        return ("app-server", *_gateway(self._setup), *_QUIET)

    def _thread(self) -> dict[str, object]:
        return {
            "cwd": str(self._setup.workspace),
            "approvalPolicy": FREE,
            "sandbox": "danger-full-access",  # the container is the sandbox
        }


def _one_root() -> Path | None:
    if not _ROOTS_BUNDLE.is_file():
        return None
    return min((path for path in _ROOTS.glob("*.pem") if path.is_file()), default=None)


def _model(result: dict[str, object]) -> str | None:
    model = result.get("model")
    return model if isinstance(model, str) else None


def _instructions(options: Options) -> dict[str, str]:
    said = {
        "baseInstructions": options.system_prompt,
        "developerInstructions": options.append_system_prompt,
    }
    return {name: text for name, text in said.items() if text is not None}


def _refusal(error: RpcError, session: str) -> Exception:
    if error.message.startswith(_NOT_FOUND):
        return SessionNotFound(session)
    return AgentStartFailed(error.message)
