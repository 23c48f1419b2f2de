from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from hutch.api.caller import CallerDep, HutchDep
from hutch.api.patience import soon
from hutch.api.shapes import Asked, Shape, Time
from hutch_runtime.protocol import Provider

router = APIRouter(prefix="/v1/credentials/{provider}/login", tags=["credentials"])


class SignInAnswer(Shape):
    state: Literal["none", "pending", "done", "failed"]
    reason: str = Field(description='Why it failed; "" otherwise.')
    url: str = Field(description="Where to sign in.")
    code: str = Field(description="To enter there; with Claude the page gives one instead.")
    expires_at: Time


class CodeRequest(Asked):
    code: str = Field(
        min_length=1,
        max_length=2000,
        pattern=r"^[\x21-\x7e]+$",
        description="What the sign-in's page has shown.",
        repr=False,
    )


@router.post("")
async def start_sign_in(provider: Provider, hutch: HutchDep, caller: CallerDep) -> SignInAnswer:
    """Start the CLI's own sign-in in the user's container, in place of an earlier one."""
    started = await soon(hutch.logins.start(caller.user_id, provider))
    return SignInAnswer.model_validate(started)


@router.get("")
async def get_sign_in(provider: Provider, hutch: HutchDep, caller: CallerDep) -> SignInAnswer:
    """`done` as soon as the login can be used."""
    return SignInAnswer.model_validate(await hutch.logins.sign_in(caller.user_id, provider))


@router.post("/code")
async def enter_code(
    provider: Provider, asked: CodeRequest, hutch: HutchDep, caller: CallerDep
) -> SignInAnswer:
    """Claude's sign-in ends with a code that its page shows."""
    await hutch.logins.enter(caller.user_id, provider, asked.code)
    return SignInAnswer.model_validate(await hutch.logins.sign_in(caller.user_id, provider))


@router.delete("", status_code=204)
async def cancel_sign_in(provider: Provider, hutch: HutchDep, caller: CallerDep) -> None:
    """End it. A login that is stored stays, and DELETE /v1/credentials/{provider} deletes it."""
    await hutch.logins.cancel(caller.user_id, provider)
