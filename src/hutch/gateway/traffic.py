"""What passed: one line in the log and some counters for each request, and how the exits do.

Never a header's value, a query or a byte of a body.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from hutch.gateway.base import ExitTraffic, Failure
from hutch.gateway.refusals import EXIT_UNAVAILABLE, Refusal
from hutch.gateway.table import Entry
from hutch_runtime.protocol import Provider

_log = structlog.get_logger()

# route: to a provider's API. connect: a tunnel. plain: http:// through us. websocket: a route's.
Kind = Literal["route", "connect", "plain", "websocket"]

_PATH_MAX: Final = 200  # characters of it in the log
_FAILURES_KEPT: Final = 10_000  # of sandboxes; the orchestrator asks within seconds
_SECONDS: Final = (0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600, 3600)


@dataclass(slots=True)
class Exchange:
    """One request through the gateway, as far as it may be told."""

    kind: Kind
    method: str
    path: str = ""
    began: float = field(default_factory=time.perf_counter)
    entry: Entry | None = None
    provider: Provider | None = None
    host: str | None = None  # "host:port", for connect and plain
    exit: str | None = None  # the id of the one that it was sent through
    status: int = 499  # unless an answer is sent, the sandbox has gone away
    up: int = 0
    down: int = 0
    refusal: Refusal | None = None  # what was answered, or broke it off later


class Traffic:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        into = self._registry
        self._requests = Counter(
            "hutch_gateway_requests",
            "Requests by kind and status.",
            ("kind", "status"),
            registry=into,
        )
        self._bytes = Counter(
            "hutch_gateway_bytes",
            "Bytes of bodies and tunnels.",
            ("kind", "direction"),
            registry=into,
        )
        self._seconds = Histogram(
            "hutch_gateway_request_seconds",
            "From a request's head to the last byte of its answer.",
            ("kind",),
            buckets=_SECONDS,
            registry=into,
        )
        self._by_exit = Counter(
            "hutch_gateway_exit_requests", "Requests by exit.", ("exit", "outcome"), registry=into
        )
        self._turned_away = Counter(
            "hutch_gateway_turned_away", "Connections closed unread.", ("why",), registry=into
        )
        self.connections = Gauge(
            "hutch_gateway_connections", "Connections of sandboxes.", registry=into
        )
        self.sandboxes = Gauge("hutch_gateway_sandboxes", "Sandboxes in the table.", registry=into)
        self._exits: dict[str, list[int]] = {}
        self._failures: OrderedDict[tuple[str, str], Failure] = OrderedDict()

    def turned_away(self, why: Literal["unknown", "too_many", "slow", "too_large"]) -> None:
        self._turned_away.labels(why).inc()

    def finished(self, exchange: Exchange) -> None:
        """Called once for each request, when nothing more can happen to it."""
        entry = exchange.entry
        seconds = time.perf_counter() - exchange.began
        failed = exchange.refusal is not None and exchange.refusal.code == EXIT_UNAVAILABLE
        self._requests.labels(exchange.kind, f"{exchange.status // 100}xx").inc()
        self._bytes.labels(exchange.kind, "up").inc(exchange.up)
        self._bytes.labels(exchange.kind, "down").inc(exchange.down)
        self._seconds.labels(exchange.kind).observe(seconds)
        if exchange.exit is not None:
            self._by_exit.labels(exchange.exit, "failed" if failed else "ok").inc()
            counts = self._exits.setdefault(exchange.exit, [0, 0])
            counts[0] += 1
            counts[1] += failed
        if failed and entry is not None and exchange.refusal is not None:
            self._note_failure(entry, exchange.refusal)
        _log.info(
            "gateway.request",
            user=entry.user_id if entry else None,
            sandbox=entry.sandbox_id if entry else None,
            kind=exchange.kind,
            provider=exchange.provider,
            host=exchange.host,
            method=exchange.method,
            path=exchange.path[:_PATH_MAX],
            status=exchange.status,
            code=(exchange.refusal.code or None) if exchange.refusal else None,
            exit=exchange.exit,
            bytes_up=exchange.up,
            bytes_down=exchange.down,
            ms=round(seconds * 1000, 1),
        )

    def exits(self) -> dict[str, ExitTraffic]:
        return {name: ExitTraffic(*counts) for name, counts in self._exits.items()}

    def failure(self, sandbox_id: str, incarnation: str, since: float) -> Failure | None:
        failure = self._failures.get((sandbox_id, incarnation))
        return failure if failure is not None and failure.at >= since else None

    def metrics(self) -> str:
        return generate_latest(self._registry).decode()

    def _note_failure(self, entry: Entry, refusal: Refusal) -> None:
        key = (entry.sandbox_id, entry.incarnation)
        self._failures[key] = Failure(refusal.code, refusal.message, time.time())
        self._failures.move_to_end(key)
        if len(self._failures) > _FAILURES_KEPT:
            self._failures.popitem(last=False)
