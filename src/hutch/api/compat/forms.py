"""The form that an answer is asked to have: each protocol's own words for a JSON schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from hutch.errors import UnsupportedParameter
from hutch_runtime.protocol import (
    PROVIDERS,
    SUPPORTED,
    OptionError,
    Options,
    Provider,
    read_options,
)

_PLAIN: Final[tuple[Any, ...]] = (None, {}, {"type": "text"})  # what every answer has


def form_of(given: Any, *, place: str, provider: Provider, inside: str | None = None) -> Options:
    """A run's option out of ``{"type": "json_schema", "schema": {…}}``, or with the schema in the
    field ``inside``. Raises ``UnsupportedParameter``.
    """
    if given in _PLAIN:
        return Options()
    wanted = given if isinstance(given, Mapping) else {}
    if wanted.get("type") != "json_schema":
        raise UnsupportedParameter(
            f"`{place}` is not supported: an answer has the form of a JSON schema, or none.",
            hint='Send {"type": "json_schema"} with a schema, or leave it out.',
            param=place,
        )
    if "output_schema" not in SUPPORTED[provider]:
        able = [name for name in PROVIDERS if "output_schema" in SUPPORTED[name]]
        raise UnsupportedParameter(
            f"`{place}` is not supported by {provider}: its CLI takes no schema.",
            hint=f"These do: {', '.join(able)}.",
            param=place,
        )
    holder = wanted if inside is None else wanted.get(inside)
    schema = holder.get("schema") if isinstance(holder, Mapping) else None
    try:
        return read_options({"output_schema": json.dumps(schema, ensure_ascii=False)})
    except OptionError as error:
        raise UnsupportedParameter(
            f"`{place}`: {error}.", hint="An answer is an object.", param=place
        ) from None


def schema_of(options: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Of a run."""
    text = (options or {}).get("output_schema")
    schema: dict[str, Any] | None = json.loads(text) if text is not None else None
    return schema
