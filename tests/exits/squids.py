"""Several Squid servers, each leaving from a loopback address of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hutch.cli.squid import Squid

# Not the demo's, which may run beside.
_FIRST = 61


@contextlib.contextmanager
def squids(count: int) -> Iterator[list[Squid]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Squid(f"127.0.0.{_FIRST + n}")) for n in range(count)]


def line(squid: Squid, *, password: str | None = None) -> str:
    """Of an inventory."""
    user, right = squid.login
    return f"127.0.0.1,{squid.port},{user},{password or right},{squid.leaves_from}"
