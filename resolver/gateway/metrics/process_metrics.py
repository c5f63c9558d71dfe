"""The metrics of one process, for Prometheus: one registry per application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from resolver import __version__
from resolver.gateway.metrics.counters import LightCounter, LightHistogram
from resolver.gateway.metrics.worker_metrics import WorkerMetrics
from resolver.gateway.net.in_flight import InFlight
from resolver.models import Health
from resolver.registry import TableKeeper
from resolver.sync import Stats

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
"""Seconds; a redirect takes under a millisecond, a slow index a quarter of a second."""


class ConnectionCounts(Protocol):
    """What is counted of connections. `resolver.gateway.net` implements it."""

    closed: LightCounter
    """Connections closed by the server, by reason."""

    @property
    def open_count(self) -> int:
        """Connections that are open."""


class Metrics:
    """All metrics of one process. Their names begin with ``glance_resolver_``."""

    def __init__(
        self,
        tables: TableKeeper,
        stats: Stats,
        in_flight: InFlight,
        probe_counts: Mapping[tuple[str, str], int],
        connections: ConnectionCounts,
        *,
        without_index: Callable[[], bool],
        worker_metrics: WorkerMetrics | None = None,
    ) -> None:
        """Args:
        probe_counts: probes by (location, result).
        without_index: whether this process answers without Redis now.
        worker_metrics: the other workers of this server, where there are several.
        """
        self.registry = CollectorRegistry()
        self.requests = LightCounter(
            "glance_resolver_requests", "Requests answered", ["route", "method", "status"]
        )
        self.seconds = LightHistogram(
            "glance_resolver_request_seconds", "Time to answer a request", "route", BUCKETS
        )
        self.answers = LightCounter(
            "glance_resolver_answers", "Ids answered, one by one or many at once", ["outcome"]
        )
        for collector in (self.requests, self.seconds, self.answers, connections.closed):
            self.registry.register(collector)
        self._gauge(
            "connections", "Connections that are open", lambda: float(connections.open_count)
        )
        self._gauge("requests_in_flight", "Requests being answered", lambda: float(in_flight.count))
        self._gauge(
            "without_index",
            "1 while this process answers without Redis",
            lambda: float(without_index()),
        )
        self._gauge(
            "tasks",
            "Tasks of the event loop; steady under a steady load",
            lambda: float(len(asyncio.all_tasks())),
        )
        Gauge("glance_resolver_build_info", "Version", ["version"], registry=self.registry).labels(
            __version__
        ).set(1)
        self.registry.register(_Locations(tables, stats, probe_counts))
        self._worker_metrics = worker_metrics

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        Gauge(f"glance_resolver_{name}", text, registry=self.registry).set_function(value)

    def record(
        self, route: str, method: str, status: int, seconds: float, outcome: object = ""
    ) -> None:
        """Counts one request; ``outcome`` is that of its answer, if it is about one image."""
        self.requests.counts[route, method, str(status)] += 1
        self.seconds.observe(route, seconds)
        if outcome and isinstance(outcome, str):
            self.answers.counts[outcome,] += 1

    async def render(self) -> bytes:
        """The text exposition format."""
        if self._worker_metrics is not None:
            return await self._worker_metrics.render(self.registry)
        return generate_latest(self.registry)


class _Locations(Collector):
    """What is known of each location, read off the table when scraped."""

    def __init__(
        self, tables: TableKeeper, stats: Stats, probe_counts: Mapping[tuple[str, str], int]
    ) -> None:
        self._tables = tables
        self._stats = stats
        self._probe_counts = probe_counts

    def collect(self) -> Iterable[Metric]:
        views = list(self._tables.table.by_name.values())
        now = time.time()

        def gauge(name: str, text: str, value: dict[str, float]) -> Metric:
            metric = GaugeMetricFamily(f"glance_resolver_{name}", text, labels=["location"])
            for location, number in value.items():
                metric.add_metric([location], number)
            return metric

        yield gauge(
            "location_up",
            "1 when the location answers, 0 when it is down; none before the first look",
            {p.name: p.health is Health.UP for p in views if p.health is not Health.UNKNOWN},
        )
        yield gauge(
            "location_covered",
            "1 when the index can prove that an image is not at the location",
            {p.name: not p.coverage_problem(now) for p in views},
        )
        yield gauge(
            "location_images",
            "Images that the last whole sweep listed",
            {p.name: p.status.sweep.images for p in views},
        )
        yield gauge(
            "location_last_sweep_timestamp_seconds",
            "When the last whole sweep ended",
            {p.name: p.status.sweep.ended for p in views if p.status.sweep.ended is not None},
        )
        yield gauge(
            "location_sweep_failing",
            "1 when the latest sweep failed",
            {p.name: bool(p.status.sweep.error) for p in views},
        )
        for name, text, table in (
            ("sweeps", "Sweeps ended by this process", self._stats.sweeps),
            ("checks", "Looks at locations by this process", self._stats.checks),
            ("polls", "Polls ended by this process", self._stats.polls),
            ("events", "Notifications taken by this process", self._stats.events),
            ("probes", "Questions about one image asked by this process", self._probe_counts),
        ):
            counter = CounterMetricFamily(
                f"glance_resolver_{name}", text, labels=["location", "result"]
            )
            for labels, count in table.items():
                counter.add_metric(list(labels), count)
            yield counter
        yield GaugeMetricFamily(
            "glance_resolver_checker_suspects_itself",
            "1 while so many locations fail together that this process calls none of them down",
            value=self._stats.checker_suspects_itself,
        )
        last_tick = GaugeMetricFamily(
            "glance_resolver_indexer_last_tick_timestamp_seconds",
            "When the indexer of this process last looked at what is due; 0 without one",
            value=self._stats.last_tick,
        )
        yield last_tick
