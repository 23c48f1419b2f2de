from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hutch_runtime.lines import END_KEPT_BYTES, LineSplitter


def _split(pieces: list[bytes], max_bytes: int) -> tuple[list[bytes], list[int]]:
    lines: list[bytes] = []
    long: list[int] = []
    splitter = LineSplitter(lines.append, long.append, max_bytes=max_bytes)
    for piece in pieces:
        splitter.feed(piece)
    splitter.close()
    return lines, long


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)), st.integers(0, 30))
def test_however_it_comes_the_lines_are_the_same(
    data: bytes, cuts: list[int], max_bytes: int
) -> None:
    data = data.replace(b"\x00", b"\n")  # so that there are some
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in itertools.pairwise(bounds)]
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    lines, long = _split(pieces, max_bytes)
    assert lines == [line for line in expected if len(line) <= max_bytes]
    assert long == [len(line) for line in expected if len(line) > max_bytes]


def test_an_endless_line_is_not_kept() -> None:
    splitter = LineSplitter(lambda _: None, lambda _: None, max_bytes=100)
    for _ in range(1000):
        splitter.feed(b"x" * 50)
    assert splitter._parts == []
    assert len(splitter.long_line_end) <= END_KEPT_BYTES


def test_the_end_of_a_long_line_can_be_seen() -> None:
    ends: list[bytes] = []
    splitter = LineSplitter(
        lambda _: None, lambda _: ends.append(splitter.long_line_end), max_bytes=3
    )
    splitter.feed(b"ab")
    splitter.feed(b"cd")
    splitter.feed(b"ef\nok\nghijk\n")
    assert ends == [b"abcdef", b"ghijk"]
