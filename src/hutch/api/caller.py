"""Who is asking: from a bearer key to the user that the request acts for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection
from starlette.types import Scope

from hutch.accounts.models import ApiKey
from hutch.app import Hutch
from hutch.audit.models import Entry
from hutch.errors import Forbidden, InvalidRequest, KeyExpired, ReadOnlyKey, Unauthorized

_READING: Final = frozenset({"GET", "HEAD"})  # no endpoint of these changes anything
_READING_BY: Final = frozenset({"/v1/tickets"})  # a ticket opens what the key itself may read
bearer = HTTPBearer(auto_error=False, description="An API key: hutch_…")


def hutch_of(request: Request) -> Hutch:
    hutch: Hutch = request.app.state.hutch
    return hutch


@dataclass(frozen=True, slots=True)
class Caller:
    """``user_id`` is whom the request acts for."""

    key: ApiKey
    user_id: str


def source_of(connection: HTTPConnection) -> str:
    """The address that the request came from."""
    return source_in(connection.app.state.hutch, connection.scope)


def source_in(hutch: Hutch, scope: Scope) -> str:
    peer = scope["client"][0] if scope.get("client") else None
    return hutch.sources.of(peer, scope["headers"])


async def known(hutch: Hutch, text: str, connection: HTTPConnection) -> ApiKey:
    """The key that this is the text of. A wrong one is counted. Raises ``Unauthorized``,
    ``TooManyFailures``.
    """
    try:
        return await hutch.accounts.authenticate(text)
    except KeyExpired:
        raise
    except Unauthorized:
        source = source_of(connection)
        hutch.audit.count(
            Entry("authentication", "unauthorized", "nobody", source=source)  # summed up
        )
        hutch.failed_keys.note(source)
        raise


async def api_key(
    request: Request,
    presented: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> ApiKey:
    return await admitted(request, presented.credentials if presented is not None else None)


async def admitted(request: Request, text: str | None) -> ApiKey:
    """The key that a request presents, if it may do that. Raises ``Unauthorized``, ``Forbidden``,
    ``TooManyFailures``.
    """
    if text is None:
        raise Unauthorized(
            "This needs an API key.", hint="Send the header `Authorization: Bearer hutch_…`."
        )
    key = await known(hutch_of(request), text, request)
    request.state.key = key  # for the audit log
    if key.read_only and request.method not in _READING and request.url.path not in _READING_BY:
        raise ReadOnlyKey(
            "This key may only read.", hint="Use a key that was not made with `read_only`."
        )
    return key


async def caller(
    request: Request,
    key: Annotated[ApiKey, Depends(api_key)],
    x_hutch_user: Annotated[
        str | None, Header(description="With a service or admin key: the user's id.")
    ] = None,
) -> Caller:
    acting = await acting_for(hutch_of(request), key, x_hutch_user)
    request.state.user_id = acting.user_id  # for the audit log
    return acting


async def acting_for(hutch: Hutch, key: ApiKey, x_hutch_user: str | None) -> Caller:
    """Raises ``Forbidden``, ``InvalidRequest``, ``NotFound``."""
    if key.user_id is not None:
        if x_hutch_user is not None and x_hutch_user != key.user_id:
            raise Forbidden(
                "This key belongs to one user and cannot act for another.",
                hint="Leave out X-Hutch-User, or use a service key.",
            )
        return Caller(key, key.user_id)
    if x_hutch_user is None:
        raise InvalidRequest(
            "A service key has to say for whom it acts.",
            hint="Send the header `X-Hutch-User: user_…`.",
        )
    user = await hutch.accounts.user(x_hutch_user)
    return Caller(key, user.id)


async def admin(key: Annotated[ApiKey, Depends(api_key)]) -> ApiKey:
    if key.scope != "admin":
        raise Forbidden(
            "This needs an admin key.",
            hint="The service wrote one to `admin-key` in its data directory at its first start.",
        )
    return key


KeyDep = Annotated[ApiKey, Depends(api_key)]
HutchDep = Annotated[Hutch, Depends(hutch_of)]
CallerDep = Annotated[Caller, Depends(caller)]
