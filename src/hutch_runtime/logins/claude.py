"""Claude Code's own sign-in, ``claude auth login``, which asks a person at a terminal.

It prints a link, and waits for the code that the page behind it shows (2.1.330, run).
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

from hutch_runtime.logins.sign_in import Invitation, SignInFailed
from hutch_runtime.logins.terminal import Terminal
from hutch_runtime.providers.base import Setup

_LINK: Final = re.compile(r"https://[\x21-\x7e]{1,2000}(?=\s)")
_LINK_WITHIN_S: Final = 30.0
_CODE: Final = re.compile(r"[\x21-\x7e]{1,2000}")
_LAST_WORDS: Final = 300  # characters


class ClaudeSignIn:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._terminal = Terminal(setup.identity)

    async def start(self) -> Invitation:
        environment = {
            **self._setup.environment,
            **self._setup.proxy,
            "BROWSER": "/bin/false",  # there is none; it prints the link then
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        try:
            await self._terminal.start(
                (*self._setup.argv, "auth", "login", "--claudeai"),
                cwd=self._setup.workspace,
                environment=environment,
            )
            link = await asyncio.wait_for(self._terminal.search(_LINK), _LINK_WITHIN_S)
        except OSError as error:
            raise SignInFailed(f"claude could not be started: {error.strerror}") from None
        except TimeoutError:
            raise SignInFailed(f"claude gave no link in {_LINK_WITHIN_S:.0f} s") from None
        if link is None:
            raise SignInFailed(f"claude ended: {self._terminal.said[-_LAST_WORDS:].strip()}")
        return Invitation(link.group(), "")

    def enter(self, code: str) -> None:
        if not _CODE.fullmatch(code):
            raise SignInFailed("The code has a space or a character that none has.")
        self._terminal.enter(code)

    async def completed(self) -> None:
        if await self._terminal.wait() != 0:
            # Its last line; the code that was typed may stand in an earlier one.
            lines = self._terminal.said.strip().splitlines()
            raise SignInFailed(lines[-1][-_LAST_WORDS:].strip() if lines else "claude failed")

    async def close(self) -> None:
        await self._terminal.close()
