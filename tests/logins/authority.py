"""A sign-in service of our own, as strict as the real ones, with the model API behind it.

Refresh tokens are single-use: each refresh gives a new one, and one that comes back kills its
whole family, as the real services do with a token that they take for stolen. The Responses
endpoint answers only to the access token of a living family that has not expired. Codex's device
sign-in is spoken as codex-cli 0.169 asks it (``/api/accounts/deviceauth/…``, run against it).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from hutch.offline_model.app import create_app
from tests.clis import cli_argv
from tests.runtime.model import WithoutProvider

CLAIMED_S = 3600
ACCOUNT = "11111111-2222-3333-4444-555555555555"


@dataclass
class Family:
    """All tokens that descend from one sign-in."""

    refresh: str
    alive: bool = True
    refreshes: int = 0
    # Newest refresh token whose access token the model API has accepted.
    used: str = ""


@dataclass
class Authority:
    url: str
    # How long an access token really holds. It claims an hour: Codex renews one that claims to end
    # within five minutes before each request, again and again.
    access_s: float = 3600.0
    answer_after_s: float = 0.0  # between rotating a token and answering with the new one
    overloaded: bool = False  # renews nothing, and says that it will later
    families: list[Family] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    replayed: int = 0  # refresh tokens that came a second time
    device_codes: dict[str, str | None] = field(default_factory=dict)  # user code → its approval
    rotated_at: list[float] = field(default_factory=list)
    # By token: the family and when it ends to hold; spent refresh tokens stay known.
    _refresh: dict[str, Family] = field(default_factory=dict)
    _access: dict[str, tuple[Family, float, str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def sign_in(self) -> dict[str, Any]:
        """What ``auth.json`` holds after a sign-in."""
        with self._lock:
            family = Family("")
            self.families.append(family)
            tokens = self._issue(family)
        return {
            "auth_mode": "chatgpt",
            "OPENAI_API_KEY": None,
            "tokens": {**tokens, "account_id": ACCOUNT},
            "last_refresh": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def approve(self, user_code: str) -> None:
        """What the person does in the browser."""
        self.device_codes[user_code] = secrets.token_hex(16)

    def expire(self) -> None:
        """No access token that is out holds any longer; refresh tokens do."""
        self._access.clear()

    def revoke(self) -> None:
        for family in self.families:
            family.alive = False

    def newest(self, auth_file: bytes) -> bool:
        """Whether a CLI can go on with this file: it holds the newest token of a living family."""
        family = self._refresh.get(refresh_token(auth_file))
        return family is not None and family.alive and family.refresh == refresh_token(auth_file)

    def _issue(self, family: Family) -> dict[str, str]:
        now = time.time()
        family.refresh = f"rt_{secrets.token_hex(24)}"
        self._refresh[family.refresh] = family
        access = _jwt(now + CLAIMED_S)
        self._access[access] = (family, now + self.access_s, family.refresh)
        return {
            "id_token": _jwt(now + CLAIMED_S),
            "access_token": access,
            "refresh_token": family.refresh,
        }

    async def token(self, request: Request) -> Response:
        body = await request.body()
        if request.headers.get("content-type", "").startswith("application/json"):
            given = json.loads(body)
        else:
            given = dict(parse_qsl(body.decode()))
        self.calls.append(f"token {given.get('grant_type')}")
        if self.overloaded:
            return Response(status_code=503)
        if given.get("grant_type") == "authorization_code":
            if given.get("code") not in self.device_codes.values():
                return _refused("invalid_grant")
            return JSONResponse(self.sign_in()["tokens"])
        with self._lock:
            family = self._refresh.get(str(given.get("refresh_token")))
            if family is None or not family.alive:
                return _refused("refresh_token_invalidated")
            if family.refresh != given["refresh_token"]:
                self.replayed += 1
                family.alive = False
                return _refused("refresh_token_reused")
            family.refreshes += 1
            tokens = self._issue(family)
            self.rotated_at.append(time.time())
        if self.answer_after_s:
            await asyncio.sleep(self.answer_after_s)
        return JSONResponse({**tokens, "token_type": "Bearer", "expires_in": int(self.access_s)})

    async def user_code(self, _request: Request) -> Response:
        self.calls.append("device usercode")
        code = f"{secrets.token_hex(2)}-{secrets.token_hex(3)}".upper()
        self.device_codes[code] = None
        return JSONResponse({"device_auth_id": f"id-{code}", "user_code": code, "interval": "1"})

    async def device_token(self, request: Request) -> Response:
        given = await request.json()
        approval = self.device_codes.get(str(given.get("user_code")))
        if approval is None:
            return JSONResponse({"error": "authorization_pending"}, status_code=403)
        verifier = secrets.token_urlsafe(32)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
        return JSONResponse(
            {
                "authorization_code": approval,
                "code_verifier": verifier,
                "code_challenge": challenge.rstrip(b"=").decode(),
            }
        )

    async def accounts_check(self, request: Request) -> Response:
        self.calls.append("accounts/check")
        del request
        return JSONResponse({"accounts": {}, "account_ordering": []})

    def allowed(self, scope: Scope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"").decode()
        found = self._access.get(given.removeprefix("Bearer "))
        if found is None or not found[0].alive or time.time() >= found[1]:
            self.calls.append("model 401")
            return False
        found[0].used = found[2]
        self.calls.append("model 200")
        return True


class _Checked:
    """The offline model for those who bring an access token that holds."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._model = WithoutProvider(create_app())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = scope["type"] == "http" and scope["path"].endswith("/responses")
        if model and not self._authority.allowed(scope):
            error = {"error": {"message": "Your authentication token has expired."}}
            await JSONResponse(error, status_code=401)(scope, receive, send)
            return
        await self._model(scope, receive, send)


@contextlib.contextmanager
def running_authority(*, host: str = "127.0.0.1") -> Iterator[Authority]:
    """Served by a thread of this process, so that tests see and change its state."""
    with socket.create_server((host, 0)) as listening:
        port = listening.getsockname()[1]
        authority = Authority(f"http://{host}:{port}")
        app = Starlette(
            routes=[
                Route("/oauth/token", authority.token, methods=["POST"]),
                Route("/api/accounts/deviceauth/usercode", authority.user_code, methods=["POST"]),
                Route("/api/accounts/deviceauth/token", authority.device_token, methods=["POST"]),
                Route("/chatgpt/wham/accounts/check", authority.accounts_check),
            ]
        )
        app.mount("/", _Checked(authority))
        config = uvicorn.Config(
            app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield authority
        finally:
            server.should_exit = True
            thread.join(10)


def refresh_token(auth_file: bytes) -> str:
    token: str = json.loads(auth_file)["tokens"]["refresh_token"]
    return token


def _refused(code: str) -> Response:
    error = {"error": {"message": "Your refresh token can't be used.", "code": code}}
    return JSONResponse(error, status_code=401)


def _jwt(expires: float) -> str:
    claims = {
        "iss": "https://authority.test",
        "sub": "someone",
        "email": "someone@example.com",
        "iat": int(expires - 60),
        "exp": int(expires),
        "jti": secrets.token_hex(8),
        "https://api.openai.com/auth": {
            "chatgpt_account_id": ACCOUNT,
            "chatgpt_plan_type": "pro",
            "chatgpt_user_id": "user-1",
        },
    }
    parts = ({"alg": "none", "typ": "JWT"}, claims)
    encoded = [
        base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts
    ]
    return ".".join((*encoded, base64.urlsafe_b64encode(b"none").rstrip(b"=").decode()))


def moved_codex(authority: Authority) -> str:
    """How to start the real CLI with its sign-in service moved to ours."""
    moved = (
        f"CODEX_REFRESH_TOKEN_URL_OVERRIDE={authority.url}/oauth/token",
        f"CODEX_APP_SERVER_LOGIN_ISSUER={authority.url}",
    )
    settings = ("-c", f'chatgpt_base_url="{authority.url}/chatgpt"')
    return shlex.join(["env", *moved, *cli_argv("codex"), *settings])
