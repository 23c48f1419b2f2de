"""What the runtime says of its logins, checked: the other side is hostile."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, TypeGuard

from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.runtime_client import RuntimeClient, RuntimeUnreachable
from hutch_runtime.protocol import LOGIN_FILES, LOGIN_MAX_BYTES, Provider, login_holds

FileState: TypeAlias = Literal["present", "absent", "blanked"]
SignInState: TypeAlias = Literal["none", "pending", "done", "failed"]

WAIT_S: Final = 30  # of one question; the runtime's own limit
_PATIENCE_S: Final = 10.0  # beyond that wait
_SWITCH_S: Final = 30.0  # agents end and start again
_START_S: Final = 60.0  # of a CLI that signs in
_TEXT_MAX: Final = 4096
_HISTORY_MAX: Final = 256
_TIME_MAX: Final = 1e11  # Unix seconds: the year 5138
NOTHING_SHA256: Final = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Seen:
    """A login's file in a sandbox. ``content`` is empty unless it is ``present``."""

    state: FileState
    sha256: str
    on: bool  # agents pay with it
    taken: bool  # it was given by us, or we have said that it is stored
    history: frozenset[str]  # SHA-256 of all that we gave and were told
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignIn:
    """``reason`` says why it failed; ``url`` and ``code`` are for the person who signs in."""

    state: SignInState
    reason: str
    url: str
    code: str
    expires_at: float


class LoginRuntime:
    """Each method raises ``RuntimeUnreachable`` or ``RuntimeRefused``."""

    def __init__(self, client: RuntimeClient) -> None:
        self._client = client

    async def seen(
        self, sandbox: Sandbox, provider: Provider, *, after: str = NOTHING_SHA256, wait_s: int = 0
    ) -> Seen:
        """The file once it is another than ``after``, or as it is after ``wait_s``."""
        path = f"/logins/{provider}?after={after}&wait={wait_s}"
        said = await self._client.call(sandbox, "GET", path, within_s=wait_s + _PATIENCE_S)
        return _seen(provider, said)

    async def put(self, sandbox: Sandbox, provider: Provider, content: bytes) -> None:
        files = {LOGIN_FILES[provider]: base64.b64encode(content).decode()}
        path = f"/logins/{provider}"
        await self._client.call(sandbox, "PUT", path, body={"files": files}, within_s=_SWITCH_S)

    async def taken(self, sandbox: Sandbox, provider: Provider, sha256: str) -> None:
        path = f"/logins/{provider}/taken"
        await self._client.call(sandbox, "POST", path, body={"sha256": sha256})

    async def remove(self, sandbox: Sandbox, provider: Provider) -> None:
        """The file too; also ends a sign-in."""
        await self._client.call(sandbox, "DELETE", f"/logins/{provider}", within_s=_SWITCH_S)

    async def start(self, sandbox: Sandbox, provider: Provider) -> SignIn:
        path = f"/logins/{provider}/start"
        return _sign_in(await self._client.call(sandbox, "POST", path, within_s=_START_S))

    async def sign_in(self, sandbox: Sandbox, provider: Provider) -> SignIn:
        return _sign_in(await self._client.call(sandbox, "GET", f"/logins/{provider}/sign-in"))

    async def enter(self, sandbox: Sandbox, provider: Provider, code: str) -> None:
        await self._client.call(sandbox, "POST", f"/logins/{provider}/code", body={"code": code})


def _seen(provider: Provider, said: dict[str, Any]) -> Seen:
    state, files, history = said.get("state"), said.get("files"), said.get("history")
    if state not in {"present", "absent", "blanked"} or not isinstance(history, list):
        raise RuntimeUnreachable("an answer about a login that is none")
    content = b""
    if state == "present":
        try:
            content = base64.b64decode(files[LOGIN_FILES[provider]], validate=True)  # type: ignore[index]  # a TypeError is handled like the rest
            usable = len(content) <= LOGIN_MAX_BYTES and login_holds(provider, content)
        except (TypeError, KeyError, ValueError, binascii.Error):
            usable = False
        if not usable:
            raise RuntimeUnreachable("a login without one in it")
        sha256 = hashlib.sha256(content).hexdigest()
    else:
        sha256 = str(said.get("sha256"))
    if said.get("sha256") != sha256 or len(sha256) != len(NOTHING_SHA256) or not sha256.isalnum():
        raise RuntimeUnreachable("a login with another one's SHA-256")
    known = frozenset(str(each) for each in history[:_HISTORY_MAX])
    return Seen(state, sha256, said.get("on") is True, said.get("taken") is True, known, content)


def _sign_in(said: dict[str, Any]) -> SignIn:
    state, expires_at = said.get("state"), said.get("expires_at")
    if state not in {"none", "pending", "done", "failed"}:
        raise RuntimeUnreachable("a sign-in in no state that there is")
    return SignIn(
        state,
        _printable(said.get("reason")),
        _printable(said.get("url")),
        _printable(said.get("code")),
        float(expires_at) if _is_time(expires_at) else 0.0,
    )


def _is_time(value: object) -> TypeGuard[float]:
    """One that people have a date for."""
    return isinstance(value, int | float) and 0 <= value <= _TIME_MAX


def _printable(text: object) -> str:
    """What comes from a container must not steer a person's terminal."""
    kept = "".join(c for c in str(text or "") if c.isprintable())
    return kept[:_TEXT_MAX]
