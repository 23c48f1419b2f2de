"""What outlives this container: the home directory and the workspace, as a tar stream.

GNU tar does the work, as the agents' user: it knows sparse files and hard links, a link leads it
where an agent could go anyhow, and a file of its own format never meets a parser outside of a
sandbox. Logins stay out: the orchestrator keeps them itself.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

from hutch_runtime.agents import Pool
from hutch_runtime.identity import Identity
from hutch_runtime.protocol import LOGIN_FILES
from hutch_runtime.tar import Tar


class State:
    def __init__(self, home: Path, workspace: Path, pool: Pool, identity: Identity) -> None:
        self._root = Path(os.path.commonpath((home, workspace)))
        self._parts = tuple(str(part.relative_to(self._root)) for part in (home, workspace))
        self._logins = tuple(f"{self._parts[0]}/{name}" for name in LOGIN_FILES.values())
        self._pool = pool
        self._tar = Tar(identity)

    async def pack(self) -> AsyncGenerator[bytes]:
        """The archive, piece by piece, once idle agents have ended and written what they hold.
        Raises ``TarFailed``, at the latest after the last piece.
        """
        await self._pool.rest()
        left_out = (f"--exclude={name}" for name in self._logins)
        options = ("--format=posix", "--sparse", "--anchored", "--no-wildcards", *left_out)
        async with aclosing(self._tar.create(self._root, options, self._parts)) as pieces:
            async for piece in pieces:
                yield piece

    async def unpack(self, pieces: AsyncIterator[bytes]) -> None:
        """Over what is there; agents that were started ahead begin anew afterwards. Raises
        ``TarFailed``.
        """
        await self._pool.rest()
        try:
            options = ("--no-same-owner", "--preserve-permissions")
            await self._tar.extract(self._root, options, pieces)
        finally:
            self._pool.refill()
