"""Who is asking: from a bearer key to the user that the request acts for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from hutch.accounts.models import ApiKey
from hutch.app import Hutch
from hutch.errors import Forbidden, InvalidRequest, Unauthorized

_bearer = HTTPBearer(auto_error=False, description="An API key: hutch_…")


def hutch_of(request: Request) -> Hutch:
    hutch: Hutch = request.app.state.hutch
    return hutch


@dataclass(frozen=True, slots=True)
class Caller:
    """``user_id`` is whom the request acts for."""

    key: ApiKey
    user_id: str


async def api_key(
    request: Request,
    presented: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> ApiKey:
    if presented is None:
        raise Unauthorized(
            "This needs an API key.", hint="Send the header `Authorization: Bearer hutch_…`."
        )
    return await hutch_of(request).accounts.authenticate(presented.credentials)


async def caller(
    request: Request,
    key: Annotated[ApiKey, Depends(api_key)],
    x_hutch_user: Annotated[
        str | None, Header(description="With a service or admin key: the user's id.")
    ] = None,
) -> Caller:
    return await acting_for(hutch_of(request), key, x_hutch_user)


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


HutchDep = Annotated[Hutch, Depends(hutch_of)]
CallerDep = Annotated[Caller, Depends(caller)]
