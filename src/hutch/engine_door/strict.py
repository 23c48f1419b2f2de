"""Requests read so that they have one meaning only. Pure.

The engine's own parsers are generous: JSON keys in any case, the last of two counts, paths are
cleaned, values repeated. Whatever could mean two things to two parsers is refused here, and the
engine never sees a byte of it: what is let through is written anew from what was understood.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import unquote_to_bytes

# No percent sign, no empty segment, none that begins with a dot.
_TARGET: Final = re.compile(
    r"(?P<version>/v[0-9]\.[0-9]{1,3})?"
    r"(?P<path>(?:/[A-Za-z0-9_][A-Za-z0-9_.:@-]*)+)"
    r"(?:\?(?P<query>[!-~]*))?"
)
_TARGET_MAX: Final = 2048
_NAME: Final = re.compile(r"[a-z][a-z-]*")
_ESCAPES: Final = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")
_DIGITS_MAX: Final = 18


class Refused(Exception):
    """``rule`` is one of those in docs/decisions/0023; ``text`` is for whoever asked."""

    def __init__(self, rule: str, text: str, *, status: int = 403) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule
        self.text = text
        self.status = status


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    version: str  # v1.41, or "" for a path that has none
    path: str
    query: Mapping[str, str]


def asked(method: str, target: str) -> Asked:
    """``target`` as it stood in the request's first line."""
    found = _TARGET.fullmatch(target) if len(target) <= _TARGET_MAX else None
    if found is None or "#" in target:
        raise Refused("path", "it is not written as the engine's own client writes it")
    version = (found["version"] or "").removeprefix("/")
    return Asked(method, version, found["path"], _query(found["query"]))


def expect(query: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """These parameters with these values, and no other; ``filters`` compared as what they say."""
    for name in query.keys() | wanted.keys():
        given, right = query.get(name), wanted.get(name)
        if given is None or right is None or not _same(name, given, right):
            raise Refused("query", f"{name} has to be {right!r}" if right else f"no {name} here")


def parsed(body: bytes) -> Any:
    """JSON in which no key comes twice; whole numbers only."""
    try:
        return json.loads(
            body.decode("utf-8", "strict"),
            object_pairs_hook=_once,
            parse_float=_no_number,
            parse_constant=_no_number,
            parse_int=_integer,
        )
    except (ValueError, RecursionError) as error:
        raise Refused("json", f"it cannot be read in one way only: {error}") from None


def canonical(value: object) -> str:
    """Two are equal when these are: unlike ``==``, which takes true for 1."""
    return json.dumps(value, sort_keys=True)


def _query(text: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split("&") if text else ():
        name, equals, value = part.partition("=")
        if not (equals and _NAME.fullmatch(name) and _ESCAPES.fullmatch(value)):
            raise Refused("query", "it has a parameter that is not written plainly")
        if name in found:
            raise Refused("query", f"{name} comes twice")
        try:
            found[name] = unquote_to_bytes(value.replace("+", " ")).decode("utf-8", "strict")
        except UnicodeDecodeError:
            raise Refused("query", f"{name} is not UTF-8") from None
    return found


def _same(name: str, given: str, right: str) -> bool:
    if name == "filters":
        return canonical(parsed(given.encode())) == canonical(json.loads(right))
    return given == right


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len({name.lower() for name in found}) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is not a whole number")


def _integer(text: str) -> int:
    if len(text) > _DIGITS_MAX:
        raise ValueError("a number is too long")
    return int(text)
