from __future__ import annotations

import io
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from hutch.cli.markdown import MarkdownView, rendered, split
from hutch.client.events import Event, parse

PAGE = """\
# A head

Some *text* with `code`.

```python
def f():

    return 1
```

- one
- two

  still two

The end.
"""


def test_what_is_whole() -> None:
    assert split("one\n\ntwo") == ("one\n\n", "two")
    assert split("one\n\n") == ("", "one\n\n")  # what follows may be indented
    assert split("one\ntwo") == ("", "one\ntwo")
    code = "```\na\n\nb\n"
    assert split(code) == ("", code)
    assert split(code + "```\n\nc") == (code + "```\n\n", "c")
    assert split("- one\n\n- two") == ("", "- one\n\n- two")


@settings(deadline=None)  # on a busy machine anything is slow
@given(st.lists(st.sampled_from([*PAGE.splitlines(keepends=True), "\n", "~~~\n", " x\n"])))
def test_nothing_is_lost(lines: list[str]) -> None:
    text = "".join(lines)
    whole, rest = split(text)
    assert whole + rest == text


def printed(text: str) -> str:
    out = Console(file=io.StringIO(), width=60)
    out.print(rendered(text))
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


@settings(deadline=None)  # on a busy machine anything is slow
@given(st.lists(st.integers(0, len(PAGE)), max_size=8))
def test_however_it_comes_it_reads_the_same(cuts: list[int]) -> None:
    screen = io.StringIO()
    view = MarkdownView(Console(file=screen, width=60, height=40, force_terminal=False))
    points = [0, *sorted(cuts), len(PAGE)]
    for start, end in pairwise(points):
        view.event(event("text.delta", PAGE[start:end]))
    view.event(event("text", PAGE))
    view.close()
    shown = [line.rstrip() for line in screen.getvalue().splitlines() if line.strip()]
    assert shown == [line.rstrip() for line in printed(PAGE).splitlines() if line.strip()]


def test_an_address_is_not_hidden_behind_words() -> None:
    out = Console(file=io.StringIO(), width=60, force_terminal=True)
    out.print(rendered("[your bank](https://evil.example.org)"))
    assert isinstance(out.file, io.StringIO)
    assert "\x1b]8" not in out.file.getvalue()
    assert "evil.example.org" in out.file.getvalue()


def event(kind: str, text: str) -> Event:
    return parse({"run_id": "run_1", "seq": 1, "time": 1.0, "type": kind, "text": text})
