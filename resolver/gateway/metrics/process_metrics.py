"""The metrics of one process, for Prometheus: one registry per application."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from resolver import __version__
from resolver.gateway.metrics.counters import LightCounter
from resolver.gateway.metrics.location_metrics import LocationMetrics
from resolver.gateway.metrics.request_metrics import RequestMetrics
from resolver.gateway.metrics.worker_metrics import WorkerMetrics
from resolver.gateway.net.in_flight import InFlight
from resolver.problems import ProblemBoard
from resolver.registry import TableKeeper
from resolver.sync import Stats


class ConnectionCounts(Protocol):
    """What is counted of connections. `resolver.gateway.net` implements it."""

    closed: LightCounter
    """Connections closed by the server, by reason."""
    max_connections: int
    """How many connections may be open."""

    @property
    def open_count(self) -> int:
        """Connections that are open."""


class ProblemMetrics(Collector):
    """How many problems ``/status`` lists, by code."""

    def __init__(self, problems: ProblemBoard) -> None:
        self._problems = problems

    def collect(self) -> Iterable[Metric]:
        metric = GaugeMetricFamily(
            "glance_resolver_problems", "Problems that /status lists", labels=["code"]
        )
        counts = Counter(problem.code for problem in self._problems.current())
        for code, count in counts.items():
            metric.add_metric([code], count)
        yield metric


class Metrics:
    """All metrics of one process. Their names begin with ``glance_resolver_``; those of the
    operating system's process, such as its memory, begin with ``process_``."""

    def __init__(
        self,
        tables: TableKeeper,
        stats: Stats,
        in_flight: InFlight,
        probe_counts: Mapping[tuple[str, str], int],
        connections: ConnectionCounts,
        problems: ProblemBoard,
        *,
        without_index: Callable[[], bool],
        without_tracking: Callable[[], bool],
        redis_may_evict: Callable[[], bool],
        without_indexer: Callable[[], bool],
        worker_metrics: WorkerMetrics | None = None,
    ) -> None:
        """Args:
        probe_counts: probes by (location, result).
        without_index: whether this process answers without Redis now.
        without_tracking: whether Redis reports no changes to this process.
        redis_may_evict: whether Redis drops keys when its memory is full.
        without_indexer: whether no indexer is running anywhere.
        worker_metrics: the other workers of this server, where there are several.
        """
        self.registry = CollectorRegistry()
        self.requests = RequestMetrics()
        for collector in (self.requests, connections.closed):
            self.registry.register(collector)
        self._gauge(
            "connections", "Connections that are open", lambda: float(connections.open_count)
        )
        self._gauge(
            "connections_max",
            "Connections that may be open",
            lambda: float(connections.max_connections),
        )
        self._gauge("requests_in_flight", "Requests being answered", lambda: float(in_flight.count))
        self._gauge(
            "without_index",
            "1 while this process answers without Redis",
            lambda: float(without_index()),
        )
        self._gauge(
            "without_tracking",
            "1 while Redis reports no changes to this process, so that it caches nothing",
            lambda: float(without_tracking()),
        )
        self._gauge(
            "redis_may_evict",
            "1 while Redis drops keys when its memory is full",
            lambda: float(redis_may_evict()),
        )
        self._gauge(
            "without_indexer",
            "1 while this process sees no running indexer",
            lambda: float(without_indexer()),
        )
        self._gauge(
            "tasks",
            "Tasks of the event loop; steady under a steady load",
            lambda: float(len(asyncio.all_tasks())),
        )
        Gauge("glance_resolver_build_info", "Version", ["version"], registry=self.registry).labels(
            __version__
        ).set(1)
        self.registry.register(LocationMetrics(tables, stats, probe_counts))
        self.registry.register(ProblemMetrics(problems))
        ProcessCollector(registry=self.registry)
        self._worker_metrics = worker_metrics

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        Gauge(f"glance_resolver_{name}", text, registry=self.registry).set_function(value)

    async def render(self) -> bytes:
        """The text exposition format."""
        if self._worker_metrics is not None:
            return await self._worker_metrics.render(self.registry)
        return generate_latest(self.registry)
