"""Clone a repository into the workspace, as the agents' user, whoever made the repository.

It comes into a directory beside its place first, and has its name once it is whole. The kernel
bounds what a workspace holds; what does not fit is removed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hutch_runtime.home import Home
from hutch_runtime.process import Process
from hutch_runtime.protocol import MIB, CloneOutcome
from hutch_runtime.providers.base import Setup

_DRAFT: Final = ".hutch-clone-"
_FULL_BYTES: Final = 1 * MIB  # what is left free where nothing fits any more
_QUESTION_S: Final = 30.0  # for what git knows without asking anybody
_LINES_MAX: Final = 50
_WORDS_MAX: Final = 500
_ENTRIES_MAX: Final = 1000

# Nothing of the repository's, or of the user's own configuration, is run or asked.
_SAFE: Final = (
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "credential.helper="),
    *("-c", "protocol.ext.allow=never"),
    *("-c", "protocol.file.allow=never"),
    *("-c", "submodule.recurse=false"),
)
_ENVIRONMENT: Final = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "/bin/true",
    "GIT_CONFIG_NOSYSTEM": "1",
    "LC_ALL": "C",
}
# git's own words, the first that fit.
_MEANINGS: Final[tuple[tuple[re.Pattern[str], CloneOutcome], ...]] = (
    (re.compile(r"No space left on device|Disk quota exceeded"), "too_large"),
    (re.compile(r"Remote branch .* not found"), "branch_not_found"),
    (re.compile(r"CONNECT tunnel failed, response 403"), "not_allowed"),
    (
        re.compile(r"Authentication failed|could not read (Username|Password)|error: 40[13]"),
        "auth_failed",
    ),
    (re.compile(r"repository .* not found|error: 404"), "not_found"),
    (
        re.compile(r"Could not resolve|Failed to connect|response 50\d|error: 50\d|timed out"),
        "unreachable",
    ),
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the orchestrator has checked: see ``hutch.git.models``."""

    url: str
    host: str  # or host:port
    directory: str  # below the workspace
    branch: str | None
    depth: int | None
    submodules: bool
    timeout_s: float
    token: bool  # the gateway has one for this host
    keep: bool  # and goes on to have it


@dataclass(frozen=True, slots=True)
class Cloned:
    commit: str | None  # none in an empty repository
    branch: str | None  # none of a tag
    bytes: int


class CloneFailed(Exception):
    def __init__(self, outcome: CloneOutcome, message: str) -> None:
        super().__init__(message)
        self.outcome: CloneOutcome = outcome
        self.message = message


class Cloner:
    def __init__(self, workspace: Home, setup: Setup) -> None:
        self._workspace = workspace
        self._setup = setup
        self._busy = asyncio.Lock()

    async def clone(self, wanted: Wanted) -> Cloned:
        """Raises ``CloneFailed``, and has then left nothing behind."""
        async with self._busy:
            self._check_free(wanted.directory)
            draft = f"{_DRAFT}{secrets.token_hex(6)}"
            try:
                async with asyncio.timeout(wanted.timeout_s):
                    await self._fetch(wanted, draft)
                cloned = await self._look(draft)
                self._check_free(wanted.directory)
                try:
                    self._workspace.move(draft, wanted.directory)
                except OSError as error:
                    said = f"{wanted.directory} cannot be made: {error.strerror}"
                    raise CloneFailed("failed", said) from None
            except TimeoutError:
                said = f"It took longer than {wanted.timeout_s:.0f} s."
                raise CloneFailed("timeout", said) from None
            finally:
                await self._sweep()
            if wanted.token and wanted.keep:
                await self._remember(wanted.host)
            return cloned

    def _check_free(self, directory: str) -> None:
        try:
            self._workspace.look(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            said = f"{directory} cannot be made: {error.strerror}"
            raise CloneFailed("failed", said) from None
        raise CloneFailed("exists", f"{directory} is there already.")

    async def _fetch(self, wanted: Wanted, draft: str) -> None:
        protocols = "https"
        way: tuple[str, ...] = ()
        if wanted.token:
            protocols = "https:http"  # to the gateway
            way = ("-c", f"{self._detour(wanted.host)}=https://{wanted.host}/")
        options = [f"--branch={wanted.branch}"] if wanted.branch is not None else []
        options += [f"--depth={wanted.depth}"] if wanted.depth is not None else []
        options += (
            ["--recurse-submodules", "--shallow-submodules"]
            if wanted.submodules
            else ["--no-recurse-submodules"]
        )
        said, _, words = await self._run(
            ("git", *_SAFE, *way, "clone", "--template=", *options, "--", wanted.url, draft),
            {"GIT_ALLOW_PROTOCOL": protocols, "GIT_CONFIG_GLOBAL": "/dev/null"},
        )
        if said != "exit code 0":
            raise self._failure(said, words)

    async def _look(self, draft: str) -> Cloned:
        async with asyncio.timeout(_QUESTION_S):
            commit = await self._ask(draft, "rev-parse", "--verify", "--quiet", "HEAD")
            branch = await self._ask(draft, "symbolic-ref", "--short", "--quiet", "HEAD")
            _, lines, _ = await self._run(("du", "--summarize", "--bytes", "--", draft), {})
        size = (lines[0] if lines else "").split("\t")[0]
        return Cloned(commit, branch, int(size) if size.isdecimal() else 0)

    async def _ask(self, draft: str, *question: str) -> str | None:
        environment = {"GIT_CONFIG_GLOBAL": "/dev/null"}
        _, lines, _ = await self._run(("git", *_SAFE, "-C", draft, *question), environment)
        return lines[0] if lines else None

    async def _remember(self, host: str) -> None:
        """For the agents' own git: what it asks of this host goes to the gateway from now on."""
        change = ("git", "config", "--global", "--replace-all", self._detour(host))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_QUESTION_S):
                await self._run((*change, f"https://{host}/"), {})

    def _detour(self, host: str) -> str:
        return f"url.{self._setup.gateway_url}/git/{host}/.insteadOf"

    def _failure(self, said: str, words: str) -> CloneFailed:
        outcome: CloneOutcome = next(
            (meaning for pattern, meaning in _MEANINGS if pattern.search(words)), "failed"
        )
        if outcome == "failed" and self._is_full():
            outcome = "too_large"
        lines = [line for line in words.splitlines() if line.startswith(("fatal:", "error:"))]
        return CloneFailed(outcome, (lines[-1] if lines else f"git: {said}")[:_WORDS_MAX])

    def _is_full(self) -> bool:
        free = os.statvfs(self._setup.workspace)
        return free.f_bavail * free.f_frsize < _FULL_BYTES or (
            free.f_files > 0 and not free.f_favail
        )

    async def _sweep(self) -> None:
        """What is not whole, or was left by one that was killed."""
        try:
            names = self._workspace.names(".", _ENTRIES_MAX)
        except OSError:
            return
        drafts = [name for name in names if name.startswith(_DRAFT)]
        if drafts:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_QUESTION_S):
                    await self._run(("rm", "-rf", "--one-file-system", "--", *drafts), {})

    async def _run(
        self, argv: tuple[str, ...], environment: Mapping[str, str]
    ) -> tuple[str, list[str], str]:
        """How it ended, the first lines that it printed, its last words on standard error."""
        lines: list[str] = []

        def heard(line: bytes) -> None:
            if len(lines) < _LINES_MAX:
                lines.append(line.decode(errors="replace").strip())

        try:
            process = await Process.start(
                argv,
                cwd=self._setup.workspace,
                environment={
                    **self._setup.environment,
                    **self._setup.proxy,
                    **_ENVIRONMENT,
                    **environment,
                },
                identity=self._setup.identity,
                on_line=heard,
                on_long_line=lambda _: None,
                on_exit=lambda _: None,
            )
        except OSError as error:
            raise CloneFailed("failed", f"git could not be started: {error.strerror}") from None
        try:
            return await process.wait(), lines, process.stderr_tail
        finally:
            process.kill()
            await process.wait()  # or it would write into what is being removed
