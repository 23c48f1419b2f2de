"""The methods that ``Client`` and ``AsyncClient`` have in common, each from its description."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

from hutch.client import file_requests, requests
from hutch.client.requests import Request, Steps

P = ParamSpec("P")
T = TypeVar("T")


class Sends:
    """What carries requests out and waits for them."""

    def _send(self, request: Request[T]) -> T:
        raise NotImplementedError

    def _go(self, steps: Steps[T]) -> T:
        raise NotImplementedError


class SendsLater:
    """The same for asyncio."""

    async def _send(self, request: Request[T]) -> T:
        raise NotImplementedError

    async def _go(self, steps: Steps[T]) -> T:
        raise NotImplementedError


class one(Generic[P, T]):  # noqa: N801  a descriptor, as property is
    """A method that is one request."""

    def __init__(self, describe: Callable[P, Request[T]]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Sends, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, instance: SendsLater, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(self, instance: Sends | SendsLater | None, owner: type) -> Any:
        if instance is None:
            return self
        describe = self._describe

        @wraps(describe)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return instance._send(describe(*args, **kwargs))  # noqa: SLF001  its other half

        return method


class several(Generic[P, T]):  # noqa: N801  a descriptor, as property is
    """A method that is several requests, of which each depends on the answer before it."""

    def __init__(self, describe: Callable[P, Steps[T]]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Sends, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, instance: SendsLater, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(self, instance: Sends | SendsLater | None, owner: type) -> Any:
        if instance is None:
            return self
        describe = self._describe

        @wraps(describe)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return instance._go(describe(*args, **kwargs))  # noqa: SLF001  its other half

        return method


class Endpoints:
    run = several(requests.run)
    submit = one(requests.submit)
    wait_for = several(requests.wait_for)
    get_run = one(requests.get_run)
    runs = several(requests.runs)
    run_page = one(requests.run_page)
    event_page = one(requests.event_page)
    cancel = one(requests.cancel)
    approvals = one(requests.approvals)
    decide = one(requests.decide)
    ticket = one(requests.ticket)

    open_terminal = one(requests.open_terminal)
    terminals = one(requests.terminals)
    end_terminal = one(requests.end_terminal)

    sessions = one(requests.sessions)
    session = one(requests.session)
    name_session = one(requests.name_session)
    fork_session = one(requests.fork_session)
    transcript = one(requests.transcript)
    transcript_items = one(requests.transcript_items)
    delete_session = one(requests.delete_session)

    container = one(requests.container)
    get_or_create_container = one(requests.get_or_create_container)
    hibernate = one(requests.hibernate)
    destroy_container = one(requests.destroy_container)

    files = several(file_requests.files)
    file_page = one(file_requests.file_page)
    read_file = one(file_requests.read_file)
    write_file = one(file_requests.write_file)
    delete_file = one(file_requests.delete_file)
    move_file = one(file_requests.move_file)
    changes = one(file_requests.changes)

    credentials = one(requests.credentials)
    credential = one(requests.credential)
    put_credential = one(requests.put_credential)
    put_api_key = one(requests.put_api_key)
    test_credential = one(requests.test_credential)
    delete_credential = one(requests.delete_credential)
    start_sign_in = one(requests.start_sign_in)
    sign_in = one(requests.sign_in)
    enter_code = one(requests.enter_code)
    cancel_sign_in = one(requests.cancel_sign_in)

    keys = one(requests.keys)
    create_key = one(requests.create_key)
    rotate_key = one(requests.rotate_key)
    revoke_key = one(requests.revoke_key)

    exit = one(requests.exit_)
    agreements = one(requests.agreements)
    accept_agreement = one(requests.accept_agreement)
    network = one(requests.network)
    allow_hosts = one(requests.allow_hosts)
    mcp_servers = one(requests.mcp_servers)
    mcp_server = one(requests.mcp_server)
    put_mcp_command = one(requests.put_mcp_command)
    put_mcp_url = one(requests.put_mcp_url)
    delete_mcp_server = one(requests.delete_mcp_server)
    git_clone = one(requests.git_clone)
    git_tokens = one(requests.git_tokens)
    put_git_token = one(requests.put_git_token)
    delete_git_token = one(requests.delete_git_token)

    users = one(requests.users)
    create_user = one(requests.create_user)
    create_user_key = one(requests.create_user_key)
    delete_user = one(requests.delete_user)
    containers = one(requests.containers)
    health = one(requests.health)
    scale_pool = one(requests.scale_pool)
    maintain = one(requests.maintain)
    assign = one(requests.assign)
    release = one(requests.release)

    call = one(requests.call)
