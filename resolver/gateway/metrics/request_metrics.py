"""Counting requests on the hot path: two additions to one row of numbers for each request.

prometheus_client's own counters take a lock and look up a child for each increment.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from resolver.latency import BOUNDS, LatencyRow, new_row

BOUND_LABELS = (*(str(float(bound)) for bound in BOUNDS), "+Inf")

SOURCES = ("cache", "index", "probe", "stale")
"""Where an answer can come from. Each has a series from the start, so that its first increase is
one."""


def histogram(
    name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], LatencyRow]]
) -> Metric:
    """A histogram with a series for each row, which comes with the values of its labels."""
    metric = HistogramMetricFamily(f"glance_resolver_{name}", text, labels=labels)
    for values, (*counts, total) in rows:
        buckets = list(zip(BOUND_LABELS, accumulate(counts), strict=True))
        metric.add_metric(values, buckets, sum_value=total)
    return metric


class RequestMetrics(Collector):
    """Requests by route, method, status, outcome and source, and how long they took."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, int, str, str], LatencyRow] = {}
        self.bulk_answers: Counter[str] = Counter()
        """Ids that were answered in bulk, by outcome."""

    def row(
        self, route: str, method: str, status: int, outcome: str = "", source: str = ""
    ) -> LatencyRow:
        """The row of such requests; ``outcome`` and ``source`` are those of an answer about one
        image."""
        key = route, method, status, outcome, source
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = new_row()
        return row

    def collect(self) -> Iterable[Metric]:
        requests: defaultdict[tuple[str, str, str], float] = defaultdict(float)
        seconds: dict[str, LatencyRow] = {}
        answers: defaultdict[str, float] = defaultdict(float, self.bulk_answers)
        reads = dict.fromkeys(SOURCES, 0.0)
        for (route, method, status, outcome, source), row in list(self._rows.items()):
            count = sum(row[:-1])
            requests[route, method, str(status)] += count
            if outcome:
                answers[outcome] += count
            if source:
                reads[source] = reads.get(source, 0.0) + count
            before = seconds.get(route)
            seconds[route] = [a + b for a, b in zip(before, row, strict=True)] if before else row
        counted = CounterMetricFamily(
            "glance_resolver_requests", "Requests answered", labels=["route", "method", "status"]
        )
        for labels, count in requests.items():
            counted.add_metric(labels, count)
        yield counted
        by_route = (([route], row) for route, row in seconds.items())
        yield histogram("request_seconds", "Time to answer a request", ["route"], by_route)
        answered = CounterMetricFamily(
            "glance_resolver_answers",
            "Ids answered, one by one or many at once",
            labels=["outcome"],
        )
        for outcome, count in answers.items():
            answered.add_metric([outcome], count)
        yield answered
        read = CounterMetricFamily(
            "glance_resolver_reads",
            "Answers about one image, by where they came from; `cache` is a hit of the cache",
            labels=["source"],
        )
        for source, count in reads.items():
            read.add_metric([source], count)
        yield read
