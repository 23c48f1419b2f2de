"""Webhooks of a user, and, with a service or admin key that names no user, of the whole service."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query

from hutch.accounts.models import ApiKey
from hutch.api.caller import HutchDep, acting_for, api_key
from hutch.api.shapes_webhooks import (
    DeliveryAnswer,
    DeliveryPage,
    NewWebhookAnswer,
    WebhookAnswer,
    WebhookChange,
    WebhookPage,
    WebhookRequest,
)

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])


async def owner(
    hutch: HutchDep,
    key: Annotated[ApiKey, Depends(api_key)],
    x_hutch_user: Annotated[
        str | None,
        Header(description="With a service or admin key: the user's id; none: the service's own."),
    ] = None,
) -> str | None:
    if key.user_id is None and x_hutch_user is None:
        return None
    return (await acting_for(hutch, key, x_hutch_user)).user_id


OwnerDep = Annotated[str | None, Depends(owner)]


@router.post("", status_code=201)
async def create_webhook(
    asked: WebhookRequest, hutch: HutchDep, user_id: OwnerDep
) -> NewWebhookAnswer:
    """The secret is shown this once."""
    made = await hutch.webhooks.create(
        user_id, url=asked.url, events=asked.events, description=asked.description
    )
    return NewWebhookAnswer.made(made)


@router.get("")
async def list_webhooks(hutch: HutchDep, user_id: OwnerDep) -> WebhookPage:
    found = await hutch.webhooks.all(user_id)
    return WebhookPage(webhooks=[WebhookAnswer.of(endpoint) for endpoint in found])


@router.get("/{webhook_id}")
async def get_webhook(webhook_id: str, hutch: HutchDep, user_id: OwnerDep) -> WebhookAnswer:
    return WebhookAnswer.of(await hutch.webhooks.get(user_id, webhook_id))


@router.patch("/{webhook_id}")
async def change_webhook(
    webhook_id: str, asked: WebhookChange, hutch: HutchDep, user_id: OwnerDep
) -> WebhookAnswer:
    """What is left out stays. `enabled: true` also makes it try again what is waiting."""
    values = asked.model_dump(exclude_none=True)
    return WebhookAnswer.of(await hutch.webhooks.change(user_id, webhook_id, **values))


@router.delete("/{webhook_id}", status_code=204)
async def delete_webhook(webhook_id: str, hutch: HutchDep, user_id: OwnerDep) -> None:
    await hutch.webhooks.delete(user_id, webhook_id)


@router.post("/{webhook_id}/rotate")
async def rotate_secret(webhook_id: str, hutch: HutchDep, user_id: OwnerDep) -> NewWebhookAnswer:
    """A new secret, shown this once; messages carry the signatures of both for a day."""
    return NewWebhookAnswer.made(await hutch.webhooks.rotate(user_id, webhook_id))


@router.post("/{webhook_id}/test", status_code=202)
async def test_webhook(webhook_id: str, hutch: HutchDep, user_id: OwnerDep) -> DeliveryAnswer:
    """Send it a message of the type `webhook.test`."""
    return DeliveryAnswer.model_validate(await hutch.webhooks.test(user_id, webhook_id))


@router.get("/{webhook_id}/deliveries")
async def list_deliveries(
    *,
    webhook_id: str,
    hutch: HutchDep,
    user_id: OwnerDep,
    before: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> DeliveryPage:
    """Newest first."""
    page = await hutch.webhooks.deliveries(user_id, webhook_id, before=before, limit=limit)
    return DeliveryPage(
        deliveries=[DeliveryAnswer.model_validate(delivery) for delivery in page],
        next=page[-1].message_id if len(page) == limit else None,
    )


@router.post("/{webhook_id}/deliveries/{message_id}/redeliver", status_code=202)
async def redeliver(
    webhook_id: str, message_id: str, hutch: HutchDep, user_id: OwnerDep
) -> DeliveryAnswer:
    """Send it again, with the same id, whatever became of it."""
    return DeliveryAnswer.model_validate(
        await hutch.webhooks.redeliver(user_id, webhook_id, message_id)
    )
