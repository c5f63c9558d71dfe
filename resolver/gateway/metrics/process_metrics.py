"""The metrics of one process, for Prometheus: one registry per application."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from resolver import __version__
from resolver.gateway.metrics.counters import LightCounter
from resolver.gateway.metrics.location_metrics import LocationMetrics
from resolver.gateway.metrics.request_metrics import RequestMetrics, histogram
from resolver.gateway.metrics.worker_metrics import WorkerMetrics
from resolver.gateway.net.in_flight import InFlight
from resolver.latency import LatencyRow
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


class ProbeCounts(Protocol):
    """What is counted of probes. `resolver.resolution` implements it."""

    counts: Counter[tuple[str, str]]
    """Probes by location and result."""
    seconds: defaultdict[str, float]
    """How long they took, by location."""

    @property
    def in_flight(self) -> int:
        """Probes under way."""


class RedisCounts(Protocol):
    """What is counted of requests to Redis. `resolver.index` implements it."""

    reply_seconds: LatencyRow
    failures: int


class RedisMetrics(Collector):
    """How long Redis takes, and how often it does not answer."""

    def __init__(self, redis: RedisCounts) -> None:
        self._redis = redis

    def collect(self) -> Iterable[Metric]:
        rows = [((), self._redis.reply_seconds)]
        yield histogram("redis_seconds", "Time that Redis took to answer a batch", [], rows)
        yield CounterMetricFamily(
            "glance_resolver_redis_failures",
            "Batches that Redis did not answer",
            value=self._redis.failures,
        )


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
        probes: ProbeCounts,
        redis: RedisCounts,
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
        without_index: whether this process answers without Redis now.
        without_tracking: whether Redis reports no changes to this process.
        redis_may_evict: whether Redis drops keys when its memory is full.
        without_indexer: whether no indexer is running anywhere.
        worker_metrics: the other workers of this server, where there are several.
        """
        self.registry = CollectorRegistry()
        self.requests = RequestMetrics()
        self._refused_logins = LightCounter(
            "glance_resolver_logins_refused",
            "Requests to admin paths with a token that was refused",
            (),
        )
        self._refused_changes = LightCounter(
            "glance_resolver_changes_refused",
            "Requests to admin paths that the role of their token does not allow",
            (),
        )
        for refused in (self._refused_logins, self._refused_changes):
            refused.counts[()] = 0  # an increase is seen from the first one on
            self.registry.register(refused)
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
        self._gauge("probes_in_flight", "Probes under way", lambda: float(probes.in_flight))
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
        self.registry.register(LocationMetrics(tables, stats, probes.counts, probes.seconds))
        self.registry.register(RedisMetrics(redis))
        self.registry.register(ProblemMetrics(problems))
        ProcessCollector(registry=self.registry)
        self._worker_metrics = worker_metrics

    def count_refused_login(self) -> None:
        """Counts a request to an admin path whose token was refused."""
        self._refused_logins.counts[()] += 1

    def count_refused_change(self) -> None:
        """Counts a request to an admin path that the role of its token does not allow."""
        self._refused_changes.counts[()] += 1

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        Gauge(f"glance_resolver_{name}", text, registry=self.registry).set_function(value)

    async def render(self) -> bytes:
        """The text exposition format."""
        if self._worker_metrics is not None:
            return await self._worker_metrics.render(self.registry)
        return generate_latest(self.registry)
