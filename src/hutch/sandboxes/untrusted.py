"""JSON that came out of a container, read so that what passes cannot hurt whoever handles it. Pure.

Python's own reader takes more than JSON is: text of other encodings and halves of surrogate pairs,
which no socket and no database can write; NaN and infinity, which no answer can carry; integers
that no float can hold; and nesting that overflows the stack of whoever walks it later.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

DEPTH_MAX: Final = 64
_DIGITS_MAX: Final = 30  # more than any counter; a float holds ten times as many


def read_json(raw: bytes) -> dict[str, Any]:
    """An object. Raises ``ValueError``, whose text holds nothing of it."""
    try:
        value = _READER.decode(raw.decode("utf-8", "strict"))
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("it is not an object")  # noqa: TRY004  one kind of error for its callers
    if not _is_shallow(value):
        raise ValueError("it is nested too deep")
    # Only an escape is left to smuggle in half of a pair.
    return _encodable(value) if b"\\u" in raw else value


def _is_shallow(value: Any) -> bool:
    """By levels: it may be deeper than the stack."""
    level = [value]
    for _ in range(DEPTH_MAX):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        if not inner:
            return True
        level = inner
    return not any(isinstance(item, dict | list) for item in level)


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return value


def _integer(text: str) -> int:
    if len(text) > _DIGITS_MAX:
        raise ValueError("a number is too long")
    return int(text)


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError("a number is too large")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


_READER: Final = json.JSONDecoder(
    parse_int=_integer, parse_float=_number, parse_constant=_no_number
)
