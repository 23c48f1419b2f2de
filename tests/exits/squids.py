"""Several Squid servers, each leaving from a loopback address of its own."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

from hutch.cli.squid import Squid

# Not the demo's, which may run beside.
_FIRST = 61


def _squid(number: int) -> Squid:
    return Squid(f"127.0.0.{_FIRST + number}", login=("exit", secrets.token_urlsafe(18)))


@contextlib.contextmanager
def squids(count: int) -> Iterator[list[Squid]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_squid(n)) for n in range(count)]


def line(squid: Squid, *, password: str | None = None) -> str:
    """Of an inventory."""
    user, right = squid.login
    return f"127.0.0.1,{squid.port},{user},{password or right},{squid.leaves_from}"
