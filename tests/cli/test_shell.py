from __future__ import annotations

import pytest

from hutch.cli.shell import Escapes


@pytest.mark.parametrize(
    ("typed", "sent", "leaves"),
    [
        (b"ls\r", b"ls\r", False),
        (b"~.", b"", True),
        (b"ls\r~.more", b"ls\r", True),
        (b"ls\n~.", b"ls\n", True),
        (b"~~x", b"~x", False),
        (b"~~.", b"~.", False),
        (b"~x\r~.", b"~x\r", True),
        (b"a~.", b"a~.", False),
        (b"~\r~.", b"~\r", True),
        (b"\xff~.\r", b"\xff~.\r", False),
    ],
)
def test_what_leaves(typed: bytes, sent: bytes, *, leaves: bool) -> None:
    for size in range(1, len(typed) + 1):
        escapes, out = Escapes(), bytearray()
        for start in range(0, len(typed), size):
            if not escapes.detach:
                out += escapes.feed(typed[start : start + size])
        assert (bytes(out), escapes.detach) == (sent, leaves)
