"""From JSON to the dataclasses, at the edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from hutch.client.errors import UnexpectedAnswer

T = TypeVar("T")

_ADAPTERS: Final[dict[Any, TypeAdapter[Any]]] = {}  # building one costs a millisecond


def adapter(kind: type[T]) -> TypeAdapter[T]:
    found = _ADAPTERS.get(kind)
    if found is None:
        found = _ADAPTERS[kind] = TypeAdapter(kind)
    return found


def decoder(kind: type[T]) -> Callable[[bytes], T]:
    """Raises ``UnexpectedAnswer`` for what is no ``kind``."""

    def decode(body: bytes) -> T:
        try:
            return adapter(kind).validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UnexpectedAnswer(
                f"The answer is not a {kind.__name__}: {where} {first['msg']}.",
                hint="Does the address lead to Hutch, and is the client as new as the service?",
            ) from None

    return decode
