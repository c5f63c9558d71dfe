"""Counting requests on the hot path: two additions to one row of numbers for each request.

prometheus_client's own counters take a lock and look up a child for each increment.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
"""Seconds; a redirect takes under a millisecond, a slow index a quarter of a second."""

BOUND_LABELS = (*(str(float(bound)) for bound in BOUNDS), "+Inf")

SOURCES = ("cache", "index", "probe", "stale")
"""Where an answer can come from. Each has a series from the start, so that its first increase is
one."""

RequestRow = list[float]
"""How many requests took how long: the count between each bound and the one before it, the count
above the last bound, and the seconds of all together."""


def observe_seconds(row: RequestRow, seconds: float) -> None:
    """Counts one request."""
    row[bisect_left(BOUNDS, seconds)] += 1
    row[-1] += seconds


class RequestMetrics(Collector):
    """Requests by route, method, status, outcome and source, and how long they took."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, int, str, str], RequestRow] = {}
        self.bulk_answers: Counter[str] = Counter()
        """Ids that were answered in bulk, by outcome."""

    def row(
        self, route: str, method: str, status: int, outcome: str = "", source: str = ""
    ) -> RequestRow:
        """The row of such requests; ``outcome`` and ``source`` are those of an answer about one
        image."""
        key = route, method, status, outcome, source
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = [0.0] * (len(BOUNDS) + 2)
        return row

    def collect(self) -> Iterable[Metric]:
        requests: defaultdict[tuple[str, str, str], float] = defaultdict(float)
        seconds: dict[str, RequestRow] = {}
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
        timed = HistogramMetricFamily(
            "glance_resolver_request_seconds", "Time to answer a request", labels=["route"]
        )
        for route, (*counts, total) in seconds.items():
            buckets = list(zip(BOUND_LABELS, accumulate(counts), strict=True))
            timed.add_metric([route], buckets, sum_value=total)
        yield timed
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
