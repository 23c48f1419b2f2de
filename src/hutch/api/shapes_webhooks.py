"""What goes over the wire of webhooks."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from hutch.api.shapes import Asked, Shape, Time
from hutch.webhooks.models import DeliveryState, Endpoint, EventType, NewEndpoint
from hutch.webhooks.service import DESCRIPTION_MAX, URL_MAX

_EVENTS = "What it hears of; all, if the list is empty."


class WebhookRequest(Asked):
    url: str = Field(max_length=URL_MAX, description="https; leads to the open internet.")
    events: list[EventType] = Field([], max_length=20, description=_EVENTS)
    description: str = Field("", max_length=DESCRIPTION_MAX)


class WebhookChange(Asked):
    url: str | None = Field(None, max_length=URL_MAX)
    events: list[EventType] | None = Field(None, max_length=20, description=_EVENTS)
    description: str | None = Field(None, max_length=DESCRIPTION_MAX)
    enabled: bool | None = None


class WebhookAnswer(Shape):
    id: str
    user_id: str | None = Field(description="Null: the service's own, for the runs of all users.")
    url: str
    events: list[str] = Field(description=_EVENTS)
    description: str
    state: Literal["active", "disabled"]
    reason: str = Field(description="Why Hutch disabled it.")
    failing_since: Time | None = Field(description="No message was taken since.")
    previous_secret_until: Time | None = Field(
        description="After a rotation: until then the secret before signs as well."
    )
    created_at: Time

    @classmethod
    def of(cls, endpoint: Endpoint) -> Self:
        return cls(**_fields(endpoint))


class NewWebhookAnswer(WebhookAnswer):
    secret: str = Field(description="Shown this once.")

    @classmethod
    def made(cls, new: NewEndpoint) -> Self:
        return cls(**_fields(new.endpoint), secret=new.secret.reveal())


def _fields(endpoint: Endpoint) -> dict[str, object]:
    return {
        "id": endpoint.id,
        "user_id": endpoint.user_id,
        "url": endpoint.url,
        "events": list(endpoint.events),
        "description": endpoint.description,
        "state": "active" if endpoint.disabled_at is None else "disabled",
        "reason": endpoint.reason,
        "failing_since": endpoint.failing_since,
        "previous_secret_until": endpoint.previous_until,
        "created_at": endpoint.created_at,
    }


class WebhookPage(Shape):
    webhooks: list[WebhookAnswer]


class DeliveryAnswer(Shape):
    message_id: str = Field(description="The header `webhook-id`.")
    type: str
    run_id: str | None
    state: DeliveryState
    attempts: int
    next_at: Time | None = Field(description="Of the next attempt.")
    last_at: Time | None
    last_status: int | None = Field(description="Of HTTP; null: no answer came.")
    last_error: str
    last_ms: float | None
    created_at: Time


class DeliveryPage(Shape):
    deliveries: list[DeliveryAnswer]
    next: str | None = Field(description="Send it as `before` for the next page; null at the end.")
