from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from hutch.secrets import Secret

EventType: TypeAlias = Literal["run.succeeded", "run.failed", "run.cancelled", "webhook.disabled"]
EVENT_TYPES: Final[tuple[EventType, ...]] = get_args(EventType)
# Goes to the endpoint that it was asked for, whatever that one wants to hear of.
TEST: Final = "webhook.test"

DeliveryState: TypeAlias = Literal["pending", "delivered", "failed"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``user_id`` None: of the whole service, and hears of every user's runs."""

    id: str
    user_id: str | None
    url: str
    events: tuple[str, ...]  # () is all
    description: str
    sealed: bytes  # the secret, under its owner's data key
    previous_sealed: bytes | None  # the one before, which signs as well until then
    previous_until: float | None
    disabled_at: float | None
    reason: str  # of disabled_at; "" when somebody wished it, or it is not
    failing_since: float | None  # no attempt has succeeded since
    created_at: float


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """One just made, or with a new secret: the only moment that its text is shown."""

    endpoint: Endpoint
    secret: Secret


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message on its way to one endpoint."""

    message_id: str
    endpoint_id: str
    type: str
    run_id: str | None
    state: DeliveryState
    attempts: int
    next_at: float | None  # of the next attempt; None when there will be none
    last_at: float | None
    last_status: int | None  # of HTTP; None: no answer came
    last_error: str  # "" when it was delivered
    last_ms: float | None
    first_at: float | None  # of the first attempt
    created_at: float
