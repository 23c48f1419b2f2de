"""Codex's device sign-in: its own ``account/login/start``, in an app-server of its own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Final

from hutch_runtime.jsonrpc import ConnectionLost, RpcError
from hutch_runtime.logins.sign_in import Invitation, SignInFailed
from hutch_runtime.providers.base import AgentStartFailed, Setup
from hutch_runtime.providers.codex import CodexDriver

_NAME: Final = "sign-in"  # a listener's; no thread has such an id
_MESSAGE_MAX: Final = 500


class CodexSignIn:
    def __init__(self, setup: Setup) -> None:
        self._driver = CodexDriver(replace(setup, login=True))
        self._login_id = ""
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self) -> Invitation:
        try:
            process = await self._driver.process()
            process.listen(_NAME, self)
            answer = await process.connection.request(
                "account/login/start", {"type": "chatgptDeviceCode"}
            )
        except (AgentStartFailed, ConnectionLost, TimeoutError) as error:
            raise SignInFailed(str(error) or "codex did not answer") from error
        except RpcError as error:
            raise SignInFailed(error.message[:_MESSAGE_MAX]) from error
        answer = answer if isinstance(answer, dict) else {}
        url, code = answer.get("verificationUrl"), answer.get("userCode")
        self._login_id = str(answer.get("loginId"))
        if not isinstance(url, str) or not isinstance(code, str):
            raise SignInFailed("codex answered without a link and a code")
        return Invitation(url, code)

    def enter(self, code: str) -> None:
        del code
        raise SignInFailed("Codex takes no code here: it is entered on the page that it names.")

    async def completed(self) -> None:
        if reason := await self._ended:
            raise SignInFailed(reason)

    async def close(self) -> None:
        await self._driver.close()
        if not self._ended.done():
            self._ended.set_result("it was ended")

    def heard(self, method: str, params: dict[str, Any], line: str) -> None:
        del line
        if method == "account/login/completed" and params.get("loginId") == self._login_id:
            failed = "" if params.get("success") is True else str(params.get("error"))
            self._end(failed[:_MESSAGE_MAX])

    def unreadable(self, line: str) -> None:
        """Nothing that a sign-in waits for."""

    def line_dropped(self, size: int) -> None:
        """The same."""

    def died(self, reason: str) -> None:
        self._end(f"codex ended: {reason}")

    def _end(self, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)
