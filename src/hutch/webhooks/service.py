"""Endpoints: made, changed, found, and tried; and what is told to them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

from hutch.clock import Clock
from hutch.errors import Conflict, InvalidRequest, NotFound
from hutch.gateway.addresses import AddressCheck
from hutch.ids import is_id, new_id
from hutch.secrets import Secret
from hutch.store.database import Statement
from hutch.vault.data_keys import INSTALLATION, DataKeys
from hutch.webhooks import outbox, signing
from hutch.webhooks.models import TEST, Delivery, Endpoint, NewEndpoint
from hutch.webhooks.rows import WebhookRows

ENDPOINTS_MAX: Final = 10  # of a user; of the service as well
URL_MAX: Final = 2000
DESCRIPTION_MAX: Final = 200
PREVIOUS_S: Final = 24 * 3600.0  # for receivers to take the new secret
PAGE_MAX: Final = 100


class Webhooks:
    def __init__(
        self,
        rows: WebhookRows,
        data_keys: DataKeys,
        clock: Clock,
        check: AddressCheck,
        *,
        wake: Callable[[], None],
    ) -> None:
        """``wake``: there is something to send."""
        self._rows = rows
        self._data_keys = data_keys
        self._clock = clock
        self._check = check
        self.wake = wake
        self._listening: set[str | None] = set()

    async def load(self) -> None:
        self._listening = await self._rows.listening()

    @property
    def any(self) -> bool:
        return bool(self._listening)

    def announce(
        self, message_id: str, kind: str, data: Mapping[str, Any], *, user_id: str, run_id: str
    ) -> list[Statement]:
        """For the transaction in which it becomes true; ``wake`` after it. Costs nothing where
        nobody listens.
        """
        if user_id not in self._listening and None not in self._listening:
            return []
        now = self._clock.now()
        return outbox.announce(message_id, kind, data, user_id=user_id, run_id=run_id, at=now)

    async def create(
        self, user_id: str | None, *, url: str, events: Sequence[str], description: str
    ) -> NewEndpoint:
        """Raises ``InvalidRequest``, ``Conflict``."""
        self._check_url(url)
        if len(await self._rows.of(user_id)) >= ENDPOINTS_MAX:
            raise Conflict(
                f"There are {ENDPOINTS_MAX} webhooks already.", hint="Delete or change one."
            )
        endpoint_id, secret = new_id("hook"), signing.new_secret()
        endpoint = Endpoint(
            id=endpoint_id,
            user_id=user_id,
            url=url,
            events=tuple(dict.fromkeys(events)),
            description=description,
            sealed=await self._seal(user_id, endpoint_id, secret),
            previous_sealed=None,
            previous_until=None,
            disabled_at=None,
            reason="",
            failing_since=None,
            created_at=self._clock.now(),
        )
        await self._rows.add(endpoint)
        await self.load()
        return NewEndpoint(endpoint, secret)

    async def all(self, user_id: str | None) -> list[Endpoint]:
        return await self._rows.of(user_id)

    async def get(self, user_id: str | None, endpoint_id: str) -> Endpoint:
        """Raises ``NotFound``, also for one of somebody else."""
        found = await self._rows.get(endpoint_id) if is_id(endpoint_id, "hook") else None
        if found is None or found.user_id != user_id:
            raise NotFound("There is no such webhook.", hint="GET /v1/webhooks lists yours.")
        return found

    async def change(self, user_id: str | None, endpoint_id: str, **values: Any) -> Endpoint:
        """``url``, ``events``, ``description``, ``enabled``; those that are left out stay. Raises
        ``InvalidRequest``, ``NotFound``.
        """
        endpoint = await self.get(user_id, endpoint_id)
        if "url" in values:
            self._check_url(values["url"])
        enabled = values.pop("enabled", None)
        if enabled is True and endpoint.disabled_at is not None:
            values |= {"disabled_at": None, "reason": "", "failing_since": None}
        elif enabled is False and endpoint.disabled_at is None:
            values |= {"disabled_at": self._clock.now(), "reason": ""}
        if values:
            await self._rows.change(endpoint.id, **values)
            await self.load()
            self.wake()
        return await self.get(user_id, endpoint_id)

    async def delete(self, user_id: str | None, endpoint_id: str) -> None:
        endpoint = await self.get(user_id, endpoint_id)
        await self._rows.delete(endpoint.id)
        await self.load()

    async def rotate(self, user_id: str | None, endpoint_id: str) -> NewEndpoint:
        """A new secret. The one before signs as well for a day."""
        endpoint = await self.get(user_id, endpoint_id)
        secret = signing.new_secret()
        changed = replace(
            endpoint,
            sealed=await self._seal(endpoint.user_id, endpoint.id, secret),
            previous_sealed=endpoint.sealed,
            previous_until=self._clock.now() + PREVIOUS_S,
        )
        await self._rows.change(
            endpoint.id,
            sealed=changed.sealed,
            previous_sealed=changed.previous_sealed,
            previous_until=changed.previous_until,
        )
        return NewEndpoint(changed, secret)

    async def secrets(self, endpoint: Endpoint) -> list[Secret]:
        """Those that sign now, the newest first. Raises ``HutchError`` when they do not open."""
        found = [await self._open(endpoint, endpoint.sealed)]
        until = endpoint.previous_until
        if endpoint.previous_sealed is not None and until and until > self._clock.now():
            found.append(await self._open(endpoint, endpoint.previous_sealed))
        return found

    async def test(self, user_id: str | None, endpoint_id: str) -> Delivery:
        """Send a message that means nothing. Raises ``Conflict`` for a disabled one."""
        endpoint = _enabled(await self.get(user_id, endpoint_id))
        message_id, now = new_id("msg"), self._clock.now()
        data = {"webhook_id": endpoint.id}
        await self._rows.write(
            outbox.store(message_id, TEST, data, user_id=user_id, at=now),
            outbox.send_to(endpoint.id, message_id, at=now),
        )
        self.wake()
        return await self.delivery(user_id, endpoint.id, message_id)

    async def deliveries(
        self, user_id: str | None, endpoint_id: str, *, before: str | None, limit: int
    ) -> list[Delivery]:
        endpoint = await self.get(user_id, endpoint_id)
        last = await self.delivery(user_id, endpoint_id, before) if before is not None else None
        return await self._rows.deliveries(endpoint.id, before=last, limit=min(limit, PAGE_MAX))

    async def delivery(self, user_id: str | None, endpoint_id: str, message_id: str) -> Delivery:
        endpoint = await self.get(user_id, endpoint_id)
        found = (
            await self._rows.delivery(endpoint.id, message_id) if is_id(message_id, "msg") else None
        )
        if found is None:
            raise NotFound(
                "There is no such delivery.", hint="They are kept for a week, or with their run."
            )
        return found

    async def redeliver(self, user_id: str | None, endpoint_id: str, message_id: str) -> Delivery:
        """Send it again, whatever became of it. Raises ``Conflict`` for a disabled one."""
        _enabled(await self.get(user_id, endpoint_id))
        delivery = await self.delivery(user_id, endpoint_id, message_id)
        now = self._clock.now()
        await self._rows.record(
            replace(delivery, state="pending", attempts=0, next_at=now, first_at=None)
        )
        self.wake()
        return await self.delivery(user_id, endpoint_id, message_id)

    def _check_url(self, url: str) -> None:
        """What can be told without a network; the rest is checked at each attempt."""
        problem = self._problem(url)
        if problem:
            raise InvalidRequest(
                f"This URL {problem}.",
                hint="https://HOST/PATH, which leads to an address on the open internet.",
            )

    def _problem(self, url: str) -> str:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            return "cannot be read"
        if len(url) > URL_MAX or not url.isascii() or not url.isprintable() or " " in url:
            return f"has more than {URL_MAX} characters, or others than it may"
        if not host or port == 0 or parts.scheme not in {"https", "http"}:
            return "is not one of https"
        if parts.scheme == "http" and not self._check.opens_any:
            return "is not one of https"
        if parts.username is not None or parts.password is not None or parts.fragment:
            return "has a user's name, a password or a fragment"
        try:
            literal = str(ipaddress.ip_address(host))
        except ValueError:
            return ""
        return "" if self._check.allows(literal) else "leads to a private address"

    async def _seal(self, user_id: str | None, endpoint_id: str, secret: Secret) -> bytes:
        owner = user_id or INSTALLATION
        return await self._data_keys.seal(owner, _context(endpoint_id), secret.reveal().encode())

    async def _open(self, endpoint: Endpoint, sealed: bytes) -> Secret:
        owner = endpoint.user_id or INSTALLATION
        opened = await self._data_keys.open(owner, _context(endpoint.id), sealed)
        return Secret(opened.decode())


def _context(endpoint_id: str) -> str:
    return f"webhook/{endpoint_id}"


def _enabled(endpoint: Endpoint) -> Endpoint:
    if endpoint.disabled_at is not None:
        raise Conflict("This webhook is disabled.", hint='PATCH it with {"enabled": true} first.')
    return endpoint
