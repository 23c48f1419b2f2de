"""The table as JSON on the control socket; validated here, dataclasses everywhere else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, IPvAnyAddress, StringConstraints

from hutch.gateway.table import Entry, Route
from hutch.secrets import Secret
from hutch_runtime.protocol import Provider

Id = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
HeaderName = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9-]+$")]
# No control character, no line break: nothing that could end the header and begin another.
HeaderValue = Annotated[str, StringConstraints(max_length=8192, pattern=r"^[!-~]+( [!-~]+)*$")]


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("not an http or https URL")
    if parts.username is not None or parts.query or parts.fragment or not text.isascii():
        raise ValueError("a base URL has no user, query or fragment")
    return text.rstrip("/")


class _Strict(BaseModel):
    # Secrets are among the fields: an error must not quote what it was given.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)


class RouteIn(_Strict):
    base_url: Annotated[str, AfterValidator(_base_url)]
    header: HeaderName
    value: HeaderValue


class EntryIn(_Strict):
    sandbox_id: Id
    incarnation: Id
    address: IPvAnyAddress
    user_id: Id | None
    placeholder: HeaderValue
    routes: dict[Provider, RouteIn]

    def entry(self) -> Entry:
        return Entry(
            sandbox_id=self.sandbox_id,
            incarnation=self.incarnation,
            address=str(self.address),
            user_id=self.user_id,
            placeholder=Secret(self.placeholder),
            routes={
                provider: Route(route.base_url, route.header, Secret(route.value))
                for provider, route in self.routes.items()
            },
        )


class TableIn(_Strict):
    entries: list[EntryIn]


def entry_json(entry: Entry) -> dict[str, Any]:
    """For the control socket only: the credentials are in it, in the clear."""
    return {
        "sandbox_id": entry.sandbox_id,
        "incarnation": entry.incarnation,
        "address": entry.address,
        "user_id": entry.user_id,
        "placeholder": entry.placeholder.reveal(),
        "routes": {
            provider: {
                "base_url": route.base_url,
                "header": route.header,
                "value": route.value.reveal(),
            }
            for provider, route in entry.routes.items()
        },
    }


def table_json(entries: Iterable[Entry]) -> dict[str, Any]:
    return {"entries": [entry_json(entry) for entry in entries]}
