"""The endpoints of logins."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hutch_runtime.logins.files import ABSENT_SHA256
from hutch_runtime.logins.service import Logins, Pending
from hutch_runtime.logins.sign_in import SignInFailed
from hutch_runtime.protocol import KIB, LOGIN_FILES, LOGIN_MAX_BYTES, Provider, login_holds
from hutch_runtime.runs import Refused

Endpoint = Callable[[Request], Awaitable[Response]]

WAIT_MAX_S: Final = 30.0
_BODY_MAX: Final = 2 * LOGIN_MAX_BYTES + 4 * KIB  # base64, and room around it
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class LoginRoutes:
    def __init__(self, logins: Logins) -> None:
        self._logins = logins

    def all(self) -> list[tuple[str, str, Endpoint]]:
        """Path, method and endpoint of each."""
        path = "/logins/{provider}"
        return [
            (path, "PUT", self._put),
            (path, "DELETE", self._delete),
            (path, "GET", self._get),
            (f"{path}/taken", "POST", self._taken),
            (f"{path}/start", "POST", self._start),
            (f"{path}/sign-in", "GET", self._sign_in),
            (f"{path}/code", "POST", self._code),
        ]

    async def _put(self, http: Request) -> Response:
        """``{files: {path below the home directory: base64}}``"""
        provider = _provider(http)
        files = (await _body(http)).get("files")
        name = LOGIN_FILES[provider]
        if not isinstance(files, dict) or list(files) != [name]:
            raise Refused("bad_request", f"files has to hold {name} and nothing else.")
        try:
            content = base64.b64decode(files[name], validate=True)
            usable = len(content) <= LOGIN_MAX_BYTES and login_holds(provider, content)
        except (TypeError, ValueError, binascii.Error):
            usable = False
        if not usable:
            raise Refused("bad_request", f"{name} is no login of {provider}.")
        try:
            await self._logins.put(provider, content)
        except OSError as error:
            raise Refused("runtime_error", f"{name} was not written: {error.strerror}") from None
        return JSONResponse({})

    async def _delete(self, http: Request) -> Response:
        await self._logins.remove(_provider(http))
        return JSONResponse({})

    async def _get(self, http: Request) -> Response:
        """``?after=`` the SHA-256 that is known already, ``&wait=`` seconds for another one."""
        provider = _provider(http)
        after = http.query_params.get("after", ABSENT_SHA256)
        wait = http.query_params.get("wait", "0")
        if not _SHA256.fullmatch(after) or not re.fullmatch(r"[0-9]{1,2}", wait):
            raise Refused("bad_request", "after is no SHA-256, or wait is no number of seconds.")
        reading = await self._logins.changed(provider, after, wait_s=min(float(wait), WAIT_MAX_S))
        login = self._logins.get(provider)
        encoded = base64.b64encode(reading.content).decode()
        return JSONResponse(
            {
                "state": reading.state,
                "sha256": reading.sha256,
                "files": {login.file.name: encoded} if reading.state == "present" else {},
                "on": login.on,
                "taken": login.taken,
                "history": list(login.history),
            }
        )

    async def _taken(self, http: Request) -> Response:
        """``{sha256}``: this content is stored."""
        sha256 = (await _body(http)).get("sha256")
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise Refused("bad_request", "sha256 is no SHA-256.")
        self._logins.take(_provider(http), sha256)
        return JSONResponse({})

    async def _start(self, http: Request) -> Response:
        try:
            pending = await self._logins.start(_provider(http))
        except SignInFailed as failed:
            raise Refused("agent_start_failed", str(failed)) from None
        return JSONResponse(_shape(pending))

    async def _sign_in(self, http: Request) -> Response:
        return JSONResponse(_shape(self._logins.get(_provider(http)).pending))

    async def _code(self, http: Request) -> Response:
        code = (await _body(http)).get("code")
        if not isinstance(code, str) or not code:
            raise Refused("bad_request", "code is missing.")
        try:
            self._logins.enter(_provider(http), code)
        except SignInFailed as failed:
            raise Refused("bad_request", str(failed)) from None
        return JSONResponse({})


def _shape(pending: Pending) -> dict[str, Any]:
    return {
        "state": pending.state,
        "reason": pending.reason,
        "url": pending.invitation.url,
        "code": pending.invitation.code,
        "expires_at": pending.expires_at,
    }


def _provider(http: Request) -> Provider:
    given = http.path_params["provider"]
    for provider in LOGIN_FILES:
        if provider == given:
            return provider
    raise Refused("bad_request", f"Logins are for {' and '.join(LOGIN_FILES)}.")


async def _body(http: Request) -> dict[str, Any]:
    body = b""
    async for part in http.stream():
        body += part
        if len(body) > _BODY_MAX:
            raise Refused("bad_request", f"The body is larger than {_BODY_MAX} bytes.")
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise Refused("bad_request", "The body is not a JSON object.")
    return given
