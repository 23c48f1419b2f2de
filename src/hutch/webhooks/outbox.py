"""What is to be told, as statements for the transaction in which it becomes true.

So a message is stored exactly when its run has ended, whatever dies at whatever moment. Built once:
building a statement costs as much as executing it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    Float,
    Insert,
    String,
    and_,
    bindparam,
    exists,
    insert,
    literal,
    not_,
    or_,
    select,
)

from hutch.store.database import Statement
from hutch.store.tables import Utf8, webhook_deliveries, webhook_endpoints, webhook_messages

_ID: Final = bindparam("message_id", type_=String)
_USER: Final = bindparam("of_user", type_=String)
_TYPE: Final = bindparam("of_type", type_=String)
_AT: Final = bindparam("at", type_=Float)
_BUT: Final = bindparam("but", type_=String)  # an endpoint that is not told; "" for none

_LISTENING: Final = and_(
    webhook_endpoints.c.disabled_at.is_(None),
    or_(webhook_endpoints.c.user_id.is_(None), webhook_endpoints.c.user_id == _USER),
    or_(
        webhook_endpoints.c.events == "",
        webhook_endpoints.c.events.contains(literal(",", String) + _TYPE + literal(",", String)),
    ),
    webhook_endpoints.c.id != _BUT,
)
_MESSAGE: Final = insert(webhook_messages).from_select(
    ["id", "user_id", "run_id", "type", "payload", "created_at"],
    select(
        _ID,
        _USER,
        bindparam("of_run", type_=String),
        _TYPE,
        bindparam("payload", type_=Utf8),
        _AT,
    ).where(
        exists().where(_LISTENING),
        # A run's end may be stored again, when it is not known whether it was.
        not_(exists().where(webhook_messages.c.id == _ID)),
    ),
)


def _deliveries(to: Any) -> Insert:
    return insert(webhook_deliveries).from_select(
        ["message_id", "endpoint_id", "state", "attempts", "next_at", "last_error"],
        select(
            _ID,
            webhook_endpoints.c.id,
            literal("pending", String),
            literal(0),
            _AT,
            literal("", String),
        ).where(
            to,
            exists().where(webhook_messages.c.id == _ID),
            not_(
                exists().where(
                    webhook_deliveries.c.message_id == _ID,
                    webhook_deliveries.c.endpoint_id == webhook_endpoints.c.id,
                )
            ),
        ),
    )


_DELIVERIES: Final = _deliveries(_LISTENING)
_TO_ONE: Final = _deliveries(webhook_endpoints.c.id == bindparam("to", type_=String))


def announce(
    message_id: str,
    kind: str,
    data: Mapping[str, Any],
    *,
    user_id: str | None,
    run_id: str | None,
    at: float,
    but: str = "",
) -> list[Statement]:
    """For all endpoints that want to hear of it; nothing is stored if there is none."""
    given = {
        "message_id": message_id,
        "of_user": user_id,
        "of_run": run_id,
        "of_type": kind,
        "payload": payload(kind, data, at),
        "at": at,
        "but": but,
    }
    told = {name: given[name] for name in ("message_id", "of_user", "of_type", "at", "but")}
    return [(_MESSAGE, [given]), (_DELIVERIES, [told])]


def store(
    message_id: str, kind: str, data: Mapping[str, Any], *, user_id: str | None, at: float
) -> Statement:
    """A message for nobody yet."""
    return insert(webhook_messages).values(
        id=message_id,
        user_id=user_id,
        type=kind,
        payload=payload(kind, data, at),
        created_at=at,
    )


def send_to(endpoint_id: str, message_id: str, *, at: float) -> Statement:
    """A message that is stored, to one endpoint."""
    return (_TO_ONE, [{"message_id": message_id, "to": endpoint_id, "at": at}])


def payload(kind: str, data: Mapping[str, Any], at: float) -> str:
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    content = {"type": kind, "timestamp": moment, "data": data}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
