"""Take secrets out of text before it goes to a log: known shapes, and values that are known.

The last net, not the first: nothing is to be logged that holds a secret. What was logged by
mistake, or stands in a traceback, ends here. A secret of no known shape, of which nobody told,
passes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

MASK: Final = "***"
# Values shorter than this stand in ordinary words, and a log without those would be of no use.
VALUE_MIN: Final = 6

# Each keeps its group, which says what it was.
_SHAPES: Final = re.compile(
    r"""
    (?P<pem>-----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----)[\s\S]*?(?:-----END[ ][A-Z ]*KEY-----|\Z)
    | (?P<url>\b[a-z][a-z0-9+.-]{1,30}://)[^\s/?#]+@  # user and password, of a proxy for one
    | (?P<auth>\b(?:bearer|(?-i:Basic))\s+)[a-z0-9._~+/-]{6,}=*
    | (?P<header>\b(?:proxy-authorization|authorization|cookie|x-api-key|x-goog-api-key)
        [\\"']*\s*[:=,]\s*(?:b(?=["']))?[\\"']*(?:bearer\s+|basic\s+)?)[^\s\\"',;)\]}]+
    | (?P<query>[?&](?:key|api_?key|access_?token|refresh_?token|id_?token|token|code)=)[^&\s"'#]+
    | (?P<hutch>\bhutch_(?:user|service|admin)_)[a-z0-9_-]{12,}
    | (?P<sk>\bsk-(?:ant-|proj-|svcacct-|admin-)?)[a-z0-9_-]{12,}
    | (?P<google>\b(?:AIza|ya29\.|GOCSPX-))[a-z0-9_.-]{12,}
    | (?P<git>\b(?:gh[pousr]_|github_pat_|glpat-))[a-z0-9_-]{12,}
    | (?P<others>\b(?:xox[abeprs]-|AKIA|ASIA|rt_))[a-z0-9_.-]{12,}
    | (?P<jwt>\beyJ)[a-z0-9_-]{6,}\.[a-z0-9_-]{6,}(?:\.[a-z0-9_-]*)?
    """,
    re.IGNORECASE | re.VERBOSE,
)
# A text without any of these holds no shape; looking for them is cheaper than the pattern.
_HINTS: Final = re.compile(
    r"://|bearer|basic|authori|cookie|-api-key|key=|token=|code=|hutch_|sk-|aiza|ya29|gocspx|gh[pousr]_"
    r"|github_|glpat|xox|akia|asia|rt_|eyj|private key",
    re.IGNORECASE,
)
# What a value under such a name is, it does not say itself.
_NAMES: Final = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-goog-api-key"}
    | {"api_key", "auth_json", "password", "passwd", "secret", "token", "session_token"}
    | {"access_token", "refresh_token", "id_token", "private_key"}
)
_DEPTH_MAX: Final = 8


class Redactor:
    def __init__(self, known: Callable[[], Iterable[str]] = tuple) -> None:
        """``known``: asked at each text for the values that must not be in it."""
        self._known = known

    def text(self, text: str) -> str:
        found = [v for v in self._known() if len(v) >= VALUE_MIN and v in text]
        for value in sorted(found, key=len, reverse=True):  # one may be part of another
            text = text.replace(value, MASK)
        return _SHAPES.sub(_masked, text) if _HINTS.search(text) else text

    def value(self, value: Any, depth: int = 0) -> Any:
        """The same of what will be JSON; what JSON does not know becomes its text."""
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if depth < _DEPTH_MAX:
            if isinstance(value, Mapping):
                return {
                    self.text(str(name)): MASK
                    if str(name).lower() in _NAMES and one
                    else self.value(one, depth + 1)
                    for name, one in value.items()
                }
            if isinstance(value, list | tuple | set | frozenset):
                return [self.value(one, depth + 1) for one in value]
        return self.text(repr(value))


def _masked(found: re.Match[str]) -> str:
    end = "@" if found["url"] else ""
    return f"{found[found.lastgroup or 0]}{MASK}{end}"
