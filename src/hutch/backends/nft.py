"""The kernel's packet filter, through the program `nft`. What needs the capability CAP_NET_ADMIN is
here, and nowhere else: a process that may not do it can have another one run the same text.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from hutch.errors import BackendError

Family: TypeAlias = Literal["inet", "bridge"]

_LIMIT_S: Final = 10  # it takes milliseconds; the kernel's own lock may be held by another firewall
_PATH: Final = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
_WORDS: Final = 300  # characters of its own that are passed on
# Not what a table is, but what happened to it.
_CHANGES: Final = frozenset({"handle", "packets", "bytes"})


async def load(text: str) -> None:
    """All of it or nothing. Raises ``BackendError``."""
    await _run("-f", "-", stdin=text)


async def table(family: Family, name: str) -> list[Any] | None:
    """Everything in it, in a form that can be compared; None if it is not there."""
    try:
        said = await _run("-j", "list", "table", family, name)
    except BackendError as error:
        if "No such file or directory" in error.message:
            return None
        raise
    return [_settled(item) for item in json.loads(said)["nftables"] if "metainfo" not in item]


async def tables() -> int:
    """How many there are, whoever's. Raises ``BackendError`` if that may not even be asked."""
    return len(json.loads(await _run("-j", "list", "tables"))["nftables"])


async def counters(name: str) -> Mapping[str, int]:
    """Packets, by the counter's name; none if the table is not there."""
    try:
        said = await _run("-j", "list", "counters", "table", "inet", name)
    except BackendError as error:
        if "No such file or directory" in error.message:
            return {}
        raise
    found = [item["counter"] for item in json.loads(said)["nftables"] if "counter" in item]
    return {counter["name"]: counter["packets"] for counter in found}


def _settled(item: Any) -> Any:
    match item:
        case dict():
            kept = {key: _settled(value) for key, value in item.items() if key not in _CHANGES}
            if isinstance(kept.get("elem"), list):
                kept["elem"] = sorted(kept["elem"], key=json.dumps)
            return kept
        case list():
            return [_settled(value) for value in item]
        case _:
            return item


async def _run(*arguments: str, stdin: str = "") -> str:
    program = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:{_PATH}")
    if program is None:
        raise BackendError(
            "The program `nft` is not on this machine.",
            hint="`make setup`, as root, installs it (the package nftables).",
        )
    try:
        # In a thread: a loop of uvloop's breaks when a program ends before it has read its input.
        done = await asyncio.to_thread(
            subprocess.run,
            [program, *arguments],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env={"LC_ALL": "C", "PATH": _PATH},
            timeout=_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"`nft` did not run: {type(error).__name__}.") from error
    if done.returncode < 0:
        raise BackendError(
            f"`nft` crashed (signal {-done.returncode}).",
            hint="Versions before 1.1 do where a newer one, as in a container, made a table.",
        )
    if done.returncode != 0:
        words = " ".join(done.stderr.split())[:_WORDS]
        if "Operation not permitted" in words or "must be root" in words:
            raise BackendError(
                "This process may not change the host's packet filter.",
                hint="It takes root, or the capability CAP_NET_ADMIN.",
            )
        raise BackendError(f"The host's packet filter refused: {words}")
    return done.stdout
