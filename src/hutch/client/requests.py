"""Each request that the service takes, described: nothing is sent here.

A function here is one method of ``Client`` and of ``AsyncClient``; ``hutch.client.endpoints`` names
them. What takes several requests is a generator of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, Unpack
from urllib.parse import quote

from hutch.client import models
from hutch.client.decoding import decoder
from hutch.client.run_options import RunOptions, body_and_headers

T = TypeVar("T")
U = TypeVar("U")

_WAIT_S: Final = 45  # of one request that waits for a run: most proxies cut a silent one at 60
_PAGE: Final = 100
_CONTAINER_S: Final = 90  # until one is ready, where all are in use


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """``repeatable``: asking twice does no more than asking once. ``gone_is_done``: of a deletion,
    whose repeat finds nothing any more. ``waits_s``: for which the service may hold it.
    """

    method: str
    path: str
    decode: Callable[[bytes], T]
    json: Any = None
    content: bytes | None = None
    params: Mapping[str, str | float] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    gone_is_done: bool = False
    waits_s: float = 0


Steps: TypeAlias = Generator[Request[Any], Any, T]


def path(template: str, **ids: str) -> str:
    return template.format(**{name: quote(text, safe="") for name, text in ids.items()})


def given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _then(decode: Callable[[bytes], T], part: Callable[[T], U]) -> Callable[[bytes], U]:
    return lambda body: part(decode(body))


def _nothing(_: bytes) -> None:
    return None


_json: Final[Callable[[bytes], dict[str, Any]]] = decoder(dict[str, Any])
_run: Final = decoder(models.Run)
_container: Final = decoder(models.Container)


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace")


def anything(body: bytes) -> dict[str, Any]:
    return _json(body) if body else {}


# Runs


def submit(
    provider: str, prompt: str, *, wait_s: float = 0, **options: Unpack[RunOptions]
) -> Request[models.Run]:
    """Start a run and do not wait for its end, or ``wait_s`` seconds at most (up to 60)."""
    body, headers = body_and_headers(provider, prompt, options, wait=wait_s)
    return Request("POST", "/v1/runs", _run, json=body, headers=headers, waits_s=wait_s)


def run(provider: str, prompt: str, **options: Unpack[RunOptions]) -> Steps[models.Run]:
    """Run a prompt to its end; ``check()`` of what comes back raises if it did not end well.

    It happens once, however often the connection breaks.
    """
    begun: models.Run = yield submit(provider, prompt, wait_s=_WAIT_S, **options)
    return begun if begun.finished else (yield from wait_for(begun.id))


def wait_for(run_id: str) -> Steps[models.Run]:
    """The run, once it has ended."""
    while True:
        seen: models.Run = yield get_run(run_id, wait_s=_WAIT_S)
        if seen.finished:
            return seen


def get_run(run_id: str, *, wait_s: float = 0) -> Request[models.Run]:
    """With its prompt. With ``wait_s``, once it has ended, or as it is after so long (up to 60)."""
    params = given(wait=wait_s or None)
    where = path("/v1/runs/{id}", id=run_id)
    return Request("GET", where, _run, params=params, waits_s=wait_s)


def run_page(
    *, limit: int = 20, before: str | None = None, session_id: str | None = None
) -> Request[models.RunPage]:
    """Newest first; ``next`` is ``before`` of the page after it."""
    params = given(limit=limit, before=before, session_id=session_id)
    return Request("GET", "/v1/runs", decoder(models.RunPage), params=params)


def runs(*, limit: int | None = 20, session_id: str | None = None) -> Steps[tuple[models.Run, ...]]:
    """Newest first, over as many pages as it takes; all of them without a ``limit``."""
    found: list[models.Run] = []
    before = None
    while limit is None or len(found) < limit:
        size = _PAGE if limit is None else min(_PAGE, limit - len(found))
        page: models.RunPage = yield run_page(limit=size, before=before, session_id=session_id)
        found += page.runs
        before = page.next
        if before is None:
            break
    return tuple(found)


def event_page(run_id: str, *, after: int = 0, wait_s: float = 0) -> Request[models.EventPage]:
    """The events after a number that are there, or the next that come within ``wait_s``."""
    return Request(
        "GET",
        path("/v1/runs/{id}/events", id=run_id),
        decoder(models.EventPage),
        params={"after": after, "wait": wait_s},
        headers={"accept": "application/json"},
        waits_s=wait_s,
    )


def cancel(run_id: str) -> Request[models.Run]:
    """End the turn, not the session. Harmless for a run that has ended."""
    return Request("POST", path("/v1/runs/{id}/cancel", id=run_id), _run)


def approvals(run_id: str) -> Request[tuple[models.Approval, ...]]:
    """What a run has asked for, in that order; those without a ``decision`` wait."""
    decode = _then(decoder(models.ApprovalPage), lambda page: page.approvals)
    return Request("GET", path("/v1/runs/{id}/approvals", id=run_id), decode)


def decide(
    run_id: str, approval_id: str, decision: Literal["allow", "always", "deny"]
) -> Request[models.Approval]:
    """Raises ``Conflict`` if it was decided otherwise; the same again does no harm."""
    where = path("/v1/runs/{id}/approvals/{approval}", id=run_id, approval=approval_id)
    return Request("POST", where, decoder(models.Approval), json={"decision": decision})


def ticket(run_id: str | None = None) -> Request[models.Ticket]:
    """Opens the run's events once, from a browser's WebSocket; without a run a terminal."""
    body = {"run_id": run_id} if run_id is not None else {"terminal": True}
    return Request("POST", "/v1/tickets", decoder(models.Ticket), json=body, repeatable=True)


# Terminals


def open_terminal(
    command: Sequence[str] | None = None,
    *,
    tty: bool = True,
    rows: int = 24,
    columns: int = 80,
    term: str = "xterm-256color",
) -> Request[models.TerminalInfo]:
    """A shell, or a command; ``Client.terminal`` connects to it."""
    return Request(
        "POST",
        "/v1/terminals",
        decoder(models.TerminalInfo),
        json={
            "command": list(command) if command is not None else None,
            "tty": tty,
            "rows": rows,
            "columns": columns,
            "term": term,
        },
        repeatable=False,
        waits_s=_CONTAINER_S,
    )


def terminals() -> Request[tuple[models.TerminalInfo, ...]]:
    """Those that live, the oldest first."""
    decode = _then(decoder(models.TerminalList), lambda found: found.terminals)
    return Request("GET", "/v1/terminals", decode)


def end_terminal(terminal_id: str) -> Request[None]:
    return Request(
        "DELETE", path("/v1/terminals/{id}", id=terminal_id), _nothing, gone_is_done=True
    )


# Sessions


def sessions(*, limit: int = 20) -> Request[tuple[models.Session, ...]]:
    """Last used first; at most 100."""
    decode = _then(decoder(models.SessionPage), lambda page: page.sessions)
    return Request("GET", "/v1/sessions", decode, params={"limit": limit})


def session(session_id: str) -> Request[models.Session]:
    return Request("GET", path("/v1/sessions/{id}", id=session_id), decoder(models.Session))


def name_session(session_id: str, name: str | None) -> Request[models.Session]:
    where = path("/v1/sessions/{id}", id=session_id)
    return Request("PATCH", where, decoder(models.Session), json={"name": name})


def fork_session(session_id: str, *, name: str | None = None) -> Request[models.Session]:
    """Another session with all that has been said in this one; each goes its own way from there."""
    where = path("/v1/sessions/{id}/fork", id=session_id)
    return Request("POST", where, decoder(models.Session), json=given(name=name), repeatable=False)


def transcript(session_id: str) -> Request[str]:
    """What was asked, said and done in it, as a page of Markdown."""
    where = path("/v1/sessions/{id}/transcript", id=session_id)
    return Request("GET", where, _text, params={"format": "md"})


def transcript_items(session_id: str) -> Request[dict[str, Any]]:
    """The same as data: ``session``, and ``runs`` with their ``items``."""
    where = path("/v1/sessions/{id}/transcript", id=session_id)
    return Request("GET", where, _json, params={"format": "json"})


def delete_session(session_id: str) -> Request[None]:
    """And its runs with all their events."""
    where = path("/v1/sessions/{id}", id=session_id)
    return Request("DELETE", where, _nothing, gone_is_done=True)


# The user's container


def container() -> Request[models.Container]:
    """As it is, also while it is put away. Raises ``NotFound`` where there is none."""
    return Request("GET", "/v1/container", _container)


def get_or_create_container() -> Request[models.Container]:
    """The user's, made or woken if need be; answers once it is ready."""
    return Request("PUT", "/v1/container", _container)


def hibernate() -> Request[models.Container]:
    """Put the user's container away now; the next run finds everything as it was."""
    return Request("POST", "/v1/container/hibernate", _container)


def destroy_container() -> Request[models.Container]:
    """The user's, with everything in it and all that is stored of it."""
    return Request("DELETE", "/v1/container", _container, repeatable=False)


# Credentials


def _credential(provider: str) -> str:
    return path("/v1/credentials/{provider}", provider=provider)


def credentials() -> Request[tuple[models.Credential, ...]]:
    decode = _then(decoder(models.CredentialPage), lambda page: page.credentials)
    return Request("GET", "/v1/credentials", decode)


def credential(provider: str) -> Request[models.Credential]:
    return Request("GET", _credential(provider), decoder(models.Credential))


def put_credential(
    provider: str, kind: str, secret: str, *, verify: bool = False
) -> Request[models.Credential]:
    """``kind``: api_key, session_token (claude), or chatgpt (codex: the content of its auth.json).
    With ``verify`` the provider is asked first; what it rejects is not stored.
    """
    field_name = "auth_json" if kind == "chatgpt" else kind
    body = {"kind": kind, field_name: secret}
    params = {"verify": "true"} if verify else {}
    return Request(
        "PUT", _credential(provider), decoder(models.Credential), json=body, params=params
    )


def put_api_key(provider: str, key: str, *, verify: bool = False) -> Request[models.Credential]:
    return put_credential(provider, "api_key", key, verify=verify)


def test_credential(provider: str) -> Request[models.Check]:
    """One request to the provider that costs no tokens."""
    return Request("POST", f"{_credential(provider)}/test", decoder(models.Check))


def delete_credential(provider: str) -> Request[None]:
    return Request("DELETE", _credential(provider), _nothing, gone_is_done=True)


_sign_in: Final = decoder(models.SignIn)


def start_sign_in(provider: str) -> Request[models.SignIn]:
    """The CLI's own, in the user's container, to be finished in their browser."""
    return Request("POST", f"{_credential(provider)}/login", _sign_in, repeatable=False)


def sign_in(provider: str) -> Request[models.SignIn]:
    return Request("GET", f"{_credential(provider)}/login", _sign_in)


def enter_code(provider: str, code: str) -> Request[models.SignIn]:
    """What Claude's page shows at the end of its sign-in."""
    where = f"{_credential(provider)}/login/code"
    return Request("POST", where, _sign_in, json={"code": code}, repeatable=False)


def cancel_sign_in(provider: str) -> Request[None]:
    return Request("DELETE", f"{_credential(provider)}/login", _nothing, gone_is_done=True)


# API keys


def keys() -> Request[tuple[models.ApiKey, ...]]:
    decode = _then(decoder(models.ApiKeyPage), lambda page: page.keys)
    return Request("GET", "/v1/keys", decode)


def create_key(
    name: str = "", *, read_only: bool = False, expires_in_s: float | None = None
) -> Request[models.NewApiKey]:
    body = {"name": name, "read_only": read_only, "expires_in_s": expires_in_s}
    return Request("POST", "/v1/keys", decoder(models.NewApiKey), json=body, repeatable=False)


def rotate_key(
    key_id: str, *, grace_s: float | None = None, expires_in_s: float | None = None
) -> Request[models.NewApiKey]:
    """A successor; the key itself goes on for ``grace_s`` more seconds, a day if left out."""
    return Request(
        "POST",
        path("/v1/keys/{id}/rotate", id=key_id),
        decoder(models.NewApiKey),
        json=given(grace_s=grace_s, expires_in_s=expires_in_s),
        repeatable=False,
    )


def revoke_key(key_id: str) -> Request[None]:
    return Request("DELETE", path("/v1/keys/{id}", id=key_id), _nothing, gone_is_done=True)


# What else a user has


def exit_() -> Request[dict[str, Any]]:
    """The address that the user's traffic leaves by, and what happened to it."""
    return Request("GET", "/v1/exit", _json)


def agreements() -> Request[tuple[models.Agreement, ...]]:
    decode = _then(decoder(models.AgreementPage), lambda page: page.agreements)
    return Request("GET", "/v1/agreements", decode)


def accept_agreement(document: str, version: str) -> Request[dict[str, Any]]:
    """In the version that was read. Raises ``Conflict`` if there is another by now."""
    return Request(
        "POST", "/v1/agreements", anything, json={"document": document, "version": version}
    )


def network() -> Request[models.Network]:
    """The hosts that the user's container may reach besides the model APIs."""
    return Request("GET", "/v1/network", decoder(models.Network))


def allow_hosts(*rules: str) -> Request[models.Network]:
    """In place of the user's former list: ``host``, ``*.host`` or ``host:port``."""
    return Request("PUT", "/v1/network", decoder(models.Network), json={"allow": list(rules)})


_mcp_server: Final = decoder(models.McpServer)


def mcp_servers() -> Request[tuple[models.McpServer, ...]]:
    """The MCP servers whose tools the user's agents have."""
    decode = _then(decoder(models.McpServerPage), lambda page: page.mcp_servers)
    return Request("GET", "/v1/mcp-servers", decode)


def mcp_server(name: str) -> Request[models.McpServer]:
    return Request("GET", path("/v1/mcp-servers/{name}", name=name), _mcp_server)


def put_mcp_command(
    name: str, command: str, *args: str, env: Mapping[str, str] | None = None
) -> Request[models.McpServer]:
    """A server that is a program in the container, spoken to over stdio."""
    body = {"command": command, "args": list(args), "env": dict(env or {})}
    where = path("/v1/mcp-servers/{name}", name=name)
    return Request("PUT", where, _mcp_server, json=body)


def put_mcp_url(
    name: str, url: str, *, headers: Mapping[str, str] | None = None
) -> Request[models.McpServer]:
    """A server outside. Its ``headers`` never enter the container."""
    body = {"url": url, "headers": dict(headers or {})}
    where = path("/v1/mcp-servers/{name}", name=name)
    return Request("PUT", where, _mcp_server, json=body)


def delete_mcp_server(name: str) -> Request[None]:
    where = path("/v1/mcp-servers/{name}", name=name)
    return Request("DELETE", where, _nothing, gone_is_done=True)


def git_clone(
    url: str,
    *,
    directory: str | None = None,
    branch: str | None = None,
    depth: int | None = None,
    submodules: bool = False,
    token: str | None = None,
    username: str | None = None,
    timeout_s: float = 120,
) -> Request[models.Cloned]:
    """A repository into the user's workspace. A ``token`` is for this clone alone, and enters the
    container no more than one that is kept (``put_git_token``).
    """
    body = given(
        url=url,
        directory=directory,
        branch=branch,
        depth=depth,
        token=token,
        username=username,
    )
    body |= {"submodules": submodules, "timeout_s": timeout_s}
    decode = decoder(models.Cloned)
    # Not repeatable: the first may have gone on after its connection broke.
    return Request(
        "POST", "/v1/git/clone", decode, json=body, repeatable=False, waits_s=timeout_s + 100
    )


def git_tokens() -> Request[tuple[models.GitToken, ...]]:
    decode = _then(decoder(models.GitTokenPage), lambda page: page.credentials)
    return Request("GET", "/v1/git/credentials", decode)


def put_git_token(
    host: str, token: str, *, username: str | None = None
) -> Request[models.GitToken]:
    """Kept by the service, for clones and for what agents do with git."""
    where = path("/v1/git/credentials/{host}", host=host)
    body = given(token=token, username=username)
    return Request("PUT", where, decoder(models.GitToken), json=body)


def delete_git_token(host: str) -> Request[None]:
    where = path("/v1/git/credentials/{host}", host=host)
    return Request("DELETE", where, _nothing, gone_is_done=True)


# For an admin key


def users() -> Request[tuple[models.User, ...]]:
    decode = _then(decoder(models.UserPage), lambda page: page.users)
    return Request("GET", "/v1/admin/users", decode)


def create_user(name: str, *, tier: str = "free") -> Request[models.NewUser]:
    """And their first key."""
    body = {"name": name, "tier": tier}
    where = "/v1/admin/users"
    return Request("POST", where, decoder(models.NewUser), json=body, repeatable=False)


def create_user_key(user_id: str) -> Request[models.NewApiKey]:
    """One more; the others stay valid."""
    where = path("/v1/admin/users/{id}/keys", id=user_id)
    return Request("POST", where, decoder(models.NewApiKey), repeatable=False)


def delete_user(user_id: str) -> Request[dict[str, Any]]:
    """Destroys their data key first, then removes all that is theirs; what went."""
    where = path("/v1/admin/users/{id}", id=user_id)
    return Request("DELETE", where, _json, repeatable=False)


def containers() -> Request[tuple[models.Container, ...]]:
    """Every live one."""
    decode = _then(decoder(models.ContainerPage), lambda page: page.containers)
    return Request("GET", "/v1/admin/containers", decode)


def health() -> Request[dict[str, Any]]:
    """Containers by state, the host's CPU and memory, the queue."""
    return Request("GET", "/v1/admin/health", _json)


def scale_pool(size: int | Literal["auto"]) -> Request[dict[str, Any]]:
    """Keep so many containers warm, also after a restart."""
    return Request("PUT", "/v1/admin/pool", _json, json={"size": size})


def maintain() -> Request[dict[str, Any]]:
    """Look after the pool now; what its tasks report."""
    return Request("POST", "/v1/admin/maintain", _json)


def assign(user_id: str) -> Request[models.Container]:
    """A container for this user, warm if there is one. A service key will do."""
    return Request("PUT", "/v1/container", _container, headers={"x-hutch-user": user_id})


def release(container_id: str) -> Request[dict[str, Any]]:
    """End it, unless nobody has used it: then it stays in the pool."""
    where = path("/v1/admin/containers/{id}/release", id=container_id)
    return Request("POST", where, _json, repeatable=False)


def call(
    method: str,
    path: str,
    *,
    json: Any = None,
    params: Mapping[str, str | float] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Request[dict[str, Any]]:
    """Any endpoint, by its path; the JSON object that it answers."""
    repeatable = method in {"GET", "PUT"} or "idempotency-key" in (headers or {})
    return Request(
        method,
        path,
        anything,
        json=json,
        params=params or {},
        headers=headers or {},
        repeatable=repeatable,
    )
