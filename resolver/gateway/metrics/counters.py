"""Counters for the hot path: plain numbers that become metrics when they are scraped.

prometheus_client's own counters take a lock and look up a child for each increment.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class LightCounter(Collector):
    """A counter: ``counts[labels] += 1``."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._name, self._text, self._labels = name, text, labels
        self.counts: defaultdict[tuple[str, ...], float] = defaultdict(float)

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, count in list(self.counts.items()):
            family.add_metric(labels, count)
        yield family


class LightHistogram(Collector):
    """A histogram of seconds by one label."""

    def __init__(self, name: str, text: str, label: str, bounds: Sequence[float]) -> None:
        self._name, self._text, self._label, self._bounds = name, text, label, bounds
        self._series: dict[str, list[float]] = {}
        """By value of the label: the count between each bound and the one before it, the count
        above the last bound, and the sum of all observations."""

    def observe(self, value: str, seconds: float) -> None:
        """Counts one observation under a value of the label."""
        series = self._series.get(value)
        if series is None:
            self._series[value] = series = [0.0] * (len(self._bounds) + 2)
        series[bisect_left(self._bounds, seconds)] += 1
        series[-1] += seconds

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label])
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for value, (*counts, total) in list(self._series.items()):
            family.add_metric(
                [value], list(zip(bounds, accumulate(counts), strict=True)), sum_value=total
            )
        yield family
