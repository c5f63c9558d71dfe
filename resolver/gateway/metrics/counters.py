"""Counters that cost a request next to nothing: plain numbers, made into metrics when scraped."""

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
        self._figures: dict[str, list[float]] = {}
        """For each value of the label: how many within each bound and not the one before, how
        many beyond the last, and the sum of all."""

    def note(self, value: str, seconds: float) -> None:
        figures = self._figures.get(value)
        if figures is None:
            self._figures[value] = figures = [0.0] * (len(self._bounds) + 2)
        figures[bisect_left(self._bounds, seconds)] += 1
        figures[-1] += seconds

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label])
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for value, (*counts, total) in list(self._figures.items()):
            family.add_metric(
                [value], list(zip(bounds, accumulate(counts), strict=True)), sum_value=total
            )
        yield family
