"""The queue, the pool and the control loop as metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from hutch.app import Hutch
from hutch.runs.pace import BOUNDS_S
from hutch.sandboxes.models import Sandbox


def capacity(hutch: Hutch, sandboxes: Sequence[Sandbox]) -> Iterator[Metric]:
    queue, scaling, inputs = hutch.run_queue, hutch.scaling, hutch.scaling.inputs
    yield _gauge("hutch_queue_depth", "Runs that have no container yet.", queue.depth())
    yield _by(
        GaugeMetricFamily(
            "hutch_queue_waiting", "Runs that wait, by what for.", labels=("reason",)
        ),
        queue.reasons(),
    )
    oldest = queue.oldest_wait_s()
    yield _gauge("hutch_queue_oldest_wait_seconds", "Of the run that waits longest.", oldest)
    yield _waits(hutch)
    yield _gauge("hutch_places_waiting", "Users who wait for a place.", hutch.places.waiting())
    yield _gauge("hutch_places_most", "Containers that there may be.", hutch.places.most)
    yield _by(
        CounterMetricFamily(
            "hutch_places_given",
            "Containers given to users: own (woken), warm (claimed), cold (made).",
            labels=("how",),
        ),
        hutch.places.given,
    )
    yield _gauge("hutch_pool_target", "Warm containers that there should be.", scaling.target)
    warm = sum(s.user_id is None and s.observed == "warm" for s in sandboxes)
    yield _gauge("hutch_pool_warm", "Warm containers that there are.", warm)
    yield _by(
        CounterMetricFamily(
            "hutch_scaling_decisions", "Changes of the pool's target.", labels=("what",)
        ),
        scaling.decided,
    )
    for name, percent in (("cpu", inputs.cpu_percent), ("memory", inputs.memory_percent)):
        if percent is not None:
            meaning = f"The host's {name} in use, over a minute."
            yield _gauge(f"hutch_host_{name}_percent", meaning, percent)
    yield from _tasks(hutch)


def _tasks(hutch: Hutch) -> Iterator[Metric]:
    ended = GaugeMetricFamily(
        "hutch_task_ended_timestamp_seconds", "When a task last ran.", labels=("task",)
    )
    says = GaugeMetricFamily(
        "hutch_task_report", "The numbers that a task last reported.", labels=("task", "what")
    )
    for task in hutch.driver.status():
        if task.finished_at is not None:
            ended.add_metric((task.name,), task.finished_at)
        for what, value in task.report.items():
            if isinstance(value, int):
                says.add_metric((task.name, what), value)
    yield ended
    yield says


def _waits(hutch: Hutch) -> Metric:
    waits = hutch.run_queue.waits_s
    buckets, below = [], 0
    for bound, count in zip([*map(str, BOUNDS_S), "+Inf"], waits.counts, strict=True):
        below += count
        buckets.append((bound, below))
    family = HistogramMetricFamily(
        "hutch_queue_wait_seconds", "From a run's acceptance until it had its container."
    )
    family.add_metric((), buckets, waits.total_s)
    return family


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=value)


def _by(family: GaugeMetricFamily | CounterMetricFamily, counts: Mapping[str, int]) -> Metric:
    for label, count in counts.items():
        family.add_metric((label,), count)
    return family
