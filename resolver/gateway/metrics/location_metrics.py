"""Metrics of locations, and of this process's work on them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from resolver.models import Health
from resolver.registry import TableKeeper
from resolver.sync import Stats


class LocationMetrics(Collector):
    """What is known of the locations that this process checks, read from the table when metrics are
    scraped. With a thousand locations and a hundred gateways, all processes would show the same."""

    def __init__(
        self,
        tables: TableKeeper,
        stats: Stats,
        probe_counts: Mapping[tuple[str, str], int],
        probe_seconds: Mapping[str, float],
    ) -> None:
        self._tables = tables
        self._stats = stats
        self._probe_counts = probe_counts
        self._probe_seconds = probe_seconds

    def collect(self) -> Iterable[Metric]:
        views = [
            view
            for view in self._tables.table.by_name.values()
            if self._stats.works_on(view.location.number)
        ]
        now = time.time()

        def gauge(name: str, text: str, value: dict[str, float]) -> Metric:
            metric = GaugeMetricFamily(f"glance_resolver_{name}", text, labels=["location"])
            for location, number in value.items():
                metric.add_metric([location], number)
            return metric

        yield gauge(
            "location_up",
            "1 when the location answers, 0 when it is down; no value before the first check",
            {
                view.name: view.health is Health.UP
                for view in views
                if view.health is not Health.UNKNOWN
            },
        )
        yield gauge(
            "location_covered",
            "1 when the index can prove that an image is not at the location",
            {view.name: not view.coverage_problem(now) for view in views},
        )
        yield gauge(
            "location_images",
            "Images that the last complete sweep listed",
            {view.name: view.status.sweep.images for view in views},
        )
        yield gauge(
            "location_skipped_rows",
            "Rows of the last complete sweep's listing that name no image",
            {view.name: view.status.sweep.skipped for view in views},
        )
        yield gauge(
            "location_conflicts",
            "Images of the last complete sweep whose bytes another location has otherwise",
            {view.name: view.status.sweep.conflicts for view in views},
        )
        yield gauge(
            "location_last_sweep_timestamp_seconds",
            "When the last complete sweep ended",
            {
                view.name: view.status.sweep.ended
                for view in views
                if view.status.sweep.ended is not None
            },
        )
        yield gauge(
            "location_last_sweep_seconds",
            "How long the last complete sweep took",
            {
                view.name: sweep.ended - sweep.started
                for view in views
                if (sweep := view.status.sweep).ended is not None and sweep.started is not None
            },
        )
        yield gauge(
            "location_event_lag_seconds",
            "From when Glance sent the latest notification to when the index had it",
            dict(self._stats.event_lags),
        )
        yield gauge(
            "location_sweep_failing",
            "1 when the latest sweep failed",
            {view.name: bool(view.status.sweep.error) for view in views},
        )
        yield gauge(
            "location_not_offered",
            "1 for each location to which this process sends no client, by its settings or because "
            "its record cannot be read",
            dict.fromkeys(self._tables.table.not_offered(), 1),
        )
        for name, text, table in (
            ("sweeps", "Sweeps by this process", self._stats.sweeps),
            ("checks", "Health checks of locations by this process", self._stats.checks),
            ("polls", "Polls by this process", self._stats.polls),
            ("events", "Notifications consumed by this process", self._stats.events),
            ("probes", "Probes by this process", self._probe_counts),
        ):
            counter = CounterMetricFamily(
                f"glance_resolver_{name}", text, labels=["location", "result"]
            )
            for labels, count in table.items():
                counter.add_metric(list(labels), count)
            yield counter
        asked = CounterMetricFamily(
            "glance_resolver_probe_seconds",
            "Time that probes by this process took, all together",
            labels=["location"],
        )
        for location, seconds in self._probe_seconds.items():
            asked.add_metric([location], seconds)
        yield asked
        # With a label it is the same in all workers, and not added up.
        indexers = GaugeMetricFamily(
            "glance_resolver_indexers",
            "Indexers that live, as the indexer of this process sees them; no value without one",
            labels=["state"],
        )
        if self._stats.live_indexers:
            indexers.add_metric(["live"], self._stats.live_indexers)
        yield indexers
        yield GaugeMetricFamily(
            "glance_resolver_checker_suspects_itself",
            "1 while so many locations fail together that this process calls none of them down",
            value=self._stats.checker_suspects_itself,
        )
        last_tick = GaugeMetricFamily(
            "glance_resolver_indexer_last_tick_timestamp_seconds",
            "When the indexer of this process last checked what is due; 0 without an indexer",
            value=self._stats.last_tick,
        )
        yield last_tick
