"""Send what is in the outbox, until it is delivered or a day has passed.

Holds when no message is due that nobody is sending. It does not own what is told: messages are
stored with what they tell of (``hutch.webhooks.outbox``), before this is woken. A crash between a
receiver's answer and its record sends the message once more: at least once, with the same id.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from hutch.clock import Clock
from hutch.control.driver import TaskReport
from hutch.errors import HutchError
from hutch.ids import new_id
from hutch.store.database import Statement
from hutch.webhooks import outbox, rows, signing
from hutch.webhooks.models import Delivery, Endpoint
from hutch.webhooks.rows import WebhookRows
from hutch.webhooks.sending import Answer, Sender
from hutch.webhooks.service import Webhooks

_log = structlog.get_logger()

LOOK_EVERY_S: Final = 5.0  # for retries; what is new wakes it
_MINUTE: Final = 60.0
_HOUR: Final = 60 * _MINUTE
# Between attempts, each a fifth longer or shorter by chance: eleven in some 26 hours, so that
# whoever mends a receiver within a day misses nothing.
PAUSES_S: Final = (
    *(5.0, 30.0, 2 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE),
    *(1 * _HOUR, 2 * _HOUR, 4 * _HOUR, 8 * _HOUR, 10 * _HOUR),
)
_JITTER: Final = 0.2
KEPT_S: Final = 7 * 24 * _HOUR
_SWEEP_EVERY_S: Final = _HOUR
AT_ONCE: Final = 32
AT_ONCE_EACH: Final = 4  # to one endpoint
_GONE: Final = 410  # by the specification: do not ask again
_UNOPENED_AGAIN_S: Final = _MINUTE


class WebhookTask:
    def __init__(
        self,
        webhooks: Webhooks,
        webhook_rows: WebhookRows,
        sender: Sender,
        clock: Clock,
        *,
        wake: Callable[[], None],
        chance: Callable[[], float] = random.random,
    ) -> None:
        """``wake``: run this task again; ``chance``: of 0 to 1, for the jitter."""
        self._webhooks = webhooks
        self._rows = webhook_rows
        self._sender = sender
        self._clock = clock
        self._wake = wake
        self._chance = chance
        self._sending: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._swept_at = 0.0

    async def close(self) -> None:
        for task in self._sending.values():
            task.cancel()
        await asyncio.gather(*self._sending.values(), return_exceptions=True)

    async def run(self) -> TaskReport:
        now = self._clock.now()
        if now - self._swept_at >= _SWEEP_EVERY_S:
            await self._rows.sweep(now - KEPT_S)
            self._swept_at = now
        if self._webhooks.any:
            await self._begin(now)
        return {"sending": len(self._sending), **await self._rows.counts()}

    async def _begin(self, now: float) -> None:
        each = Counter(endpoint for _, endpoint in self._sending)
        for delivery in await self._rows.due(now, each=2 * AT_ONCE_EACH, most=2 * AT_ONCE):
            key = (delivery.message_id, delivery.endpoint_id)
            if key in self._sending or each[delivery.endpoint_id] >= AT_ONCE_EACH:
                continue
            if len(self._sending) >= AT_ONCE:
                return
            each[delivery.endpoint_id] += 1
            task = asyncio.create_task(self._send(delivery), name=f"webhook {delivery.message_id}")
            self._sending[key] = task
            task.add_done_callback(lambda _, key=key: self._sent(key))  # type: ignore[misc]  # mypy cannot infer a lambda with a default

    def _sent(self, key: tuple[str, str]) -> None:
        del self._sending[key]
        self._wake()  # there may be more

    async def _send(self, delivery: Delivery) -> None:
        try:
            await self._attempt(delivery)
        except HutchError as error:  # the database, which will be back
            _log.warning("webhook.not_recorded", endpoint=delivery.endpoint_id, code=error.code)
            await asyncio.sleep(1)

    async def _attempt(self, delivery: Delivery) -> None:
        payload = await self._rows.payload(delivery.message_id)
        endpoint = await self._rows.get(delivery.endpoint_id)
        if payload is None or endpoint is None:
            return  # deleted meanwhile
        try:
            keys = await self._webhooks.secrets(endpoint)
        except HutchError as error:
            _log.warning("webhook.secret_unavailable", endpoint=endpoint.id, code=error.code)
            later = self._clock.now() + _UNOPENED_AGAIN_S
            await self._rows.record(replace(delivery, next_at=later))
            return
        body = payload.encode()
        began_at, began = self._clock.now(), asyncio.get_running_loop().time()
        headers = signing.headers(keys, delivery.message_id, int(began_at), body)
        answer = await self._sender.post(endpoint.url, headers, body)
        took_ms = round((asyncio.get_running_loop().time() - began) * 1000, 1)
        await self._record(
            endpoint,
            replace(
                delivery,
                attempts=delivery.attempts + 1,
                first_at=delivery.first_at or began_at,
                last_at=began_at,
                last_status=answer.status,
                last_error=answer.error,
                last_ms=took_ms,
            ),
            answer,
        )

    async def _record(self, endpoint: Endpoint, delivery: Delivery, answer: Answer) -> None:
        now = self._clock.now()
        if answer.ok:
            delivery = replace(delivery, state="delivered", next_at=None)
            await self._rows.record(delivery, rows.succeeded(endpoint.id))
            return
        changes: list[Statement] = [rows.failed(endpoint.id, at=now)]
        reason = ""
        if delivery.attempts <= len(PAUSES_S):
            pause = PAUSES_S[delivery.attempts - 1] * (1 + _JITTER * (2 * self._chance() - 1))
            delivery = replace(delivery, next_at=now + pause)
        else:
            delivery = replace(delivery, state="failed", next_at=None)
            _log.warning("webhook.undelivered", endpoint=endpoint.id, message=delivery.message_id)
            # Nothing else came through either in all that time.
            if endpoint.failing_since is not None and (
                endpoint.failing_since <= (delivery.first_at or now) + _MINUTE
            ):
                reason = f"For {_span(now - endpoint.failing_since)} no message was taken."
        if answer.status == _GONE:
            reason = "It answered 410: gone."
        if reason:
            changes += self._disable(endpoint, reason, answer, now)
        await self._rows.record(delivery, *changes)
        if reason:
            await self._webhooks.load()
            self._wake()

    def _disable(
        self, endpoint: Endpoint, reason: str, answer: Answer, now: float
    ) -> list[Statement]:
        """And tell the others who want to know: its user's, and the service's own."""
        _log.warning("webhook.disabled", endpoint=endpoint.id, user=endpoint.user_id, why=reason)
        data = {
            "webhook_id": endpoint.id,
            "user_id": endpoint.user_id,
            "reason": reason,
            "last_error": answer.error,
        }
        return [
            rows.disable(endpoint.id, reason, at=now),
            *outbox.announce(
                new_id("msg"),
                "webhook.disabled",
                data,
                user_id=endpoint.user_id,
                run_id=None,
                at=now,
                but=endpoint.id,
            ),
        ]


def _span(seconds: float) -> str:
    return f"{seconds / _HOUR:.0f} hours"
