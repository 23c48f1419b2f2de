"""``GET /metrics`` for Prometheus: how things stand now, and the gateway's own counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from hutch.api.caller import HutchDep, admin
from hutch.api.metrics_capacity import capacity
from hutch.app import Hutch
from hutch.errors import Unavailable


class _Ready(Collector):
    """Metrics that are counted already."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> list[Metric]:
        return self._metrics


router = APIRouter(tags=["health"], dependencies=[Depends(admin)])


@router.get("/metrics", response_class=Response)
async def metrics(hutch: HutchDep) -> Response:
    """In Prometheus' text format, with an admin key. Counted when asked: nothing is on a prompt's
    path for it.
    """
    try:
        of_gateway = await hutch.gateway_control.metrics()
    except Unavailable:
        of_gateway = ""
    registry = await _now(hutch)
    up = Gauge("hutch_gateway_up", "Whether the gateway answers.", registry=registry)
    up.set(bool(of_gateway))
    text = generate_latest(registry).decode() + of_gateway
    return Response(text, media_type=CONTENT_TYPE_LATEST)


async def _now(hutch: Hutch) -> CollectorRegistry:
    registry = CollectorRegistry()

    def gauge(name: str, meaning: str, label: str, values: Iterable[str]) -> None:
        metric = Gauge(name, meaning, (label,), registry=registry)
        for value, count in Counter(values).items():
            metric.labels(value).set(count)

    sandboxes = await hutch.sandboxes.all()
    gauge("hutch_sandboxes", "Live containers by state.", "state", (s.observed for s in sandboxes))
    states = await hutch.vault.states()
    gauge("hutch_credentials", "Stored credentials by state.", "state", states)
    exits = hutch.exits.all()
    gauge("hutch_exits", "Exits by health.", "health", (e.health for e in exits))
    leased = Gauge("hutch_exits_leased", "Exits that are a user's now.", registry=registry)
    leased.set(sum(e.user_id is not None for e in exits))
    gauge("hutch_alerts", "Alerts by kind.", "what", (a.what for a in hutch.alerts()))
    registry.register(_Ready(capacity(hutch, sandboxes)))
    failed = [task.name for task in hutch.driver.status() if task.error]
    gauge("hutch_tasks_failed", "Tasks of the control loop whose last run failed.", "task", failed)
    return registry
