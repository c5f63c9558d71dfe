"""The figures of all workers in one scrape.

Each worker has a file for what it counted, and a socket beside it. Whichever is scraped asks the
others there and adds up what they say. What is told was written before: a worker that comes in the
place of one that ended goes on from there, so a sum never falls, which Prometheus would take for
a restart.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

PATIENCE = 0.5
"""Seconds that another worker has to tell its figures; then what it wrote last counts."""

MetricSamples = dict[str, float]
"""By family, name and labels, as JSON."""


class WorkerMetrics:
    """One worker's place among all, and its figures."""

    def __init__(self, folder: Path, column: int) -> None:
        self._folder = folder
        self._file = folder / f"{column}.json"
        self._socket = folder / f"{column}.socket"
        self._before: MetricSamples = _read(self._file)
        """What those counted that had this place before."""
        self._server: asyncio.Server | None = None

    async def open(self, registry: CollectorRegistry) -> None:
        """Answers the others from now on."""

        async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(json.dumps(self._own(registry)).encode())
            writer.close()

        self._own(registry)
        self._socket.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(tell, self._socket)

    def close(self, registry: CollectorRegistry) -> None:
        """Leaves what was counted to whoever comes next."""
        if self._server is not None:
            self._server.close()
        self._socket.unlink(missing_ok=True)
        if self._folder.exists():
            self._own(registry)

    async def render(self, registry: CollectorRegistry) -> bytes:
        """The text exposition format, of all workers."""
        others = [file for file in self._folder.glob("*.json") if file != self._file]
        told = await asyncio.gather(*map(_told_by, others))
        return generate_latest(_Sum(registry, [self._own(registry), *told]))

    def _own(self, registry: CollectorRegistry) -> MetricSamples:
        """This worker's figures with those of its place before; its counts are written first."""
        counts, now = dict(self._before), {}
        for family in registry.collect():
            for sample in family.samples:
                key = json.dumps([family.name, sample.name, sample.labels])
                if _counts(family, sample):
                    counts[key] = counts.get(key, 0.0) + sample.value
                elif _of_process(family, sample):
                    now[key] = sample.value
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(counts))
        fresh.replace(self._file)
        return counts | now


async def _told_by(file: Path) -> MetricSamples:
    """What another worker says, or what was counted in its place."""
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_unix_connection(file.with_suffix(".socket"))
            text = await reader.read()
            writer.close()
            return _parsed(text)
    except (OSError, TimeoutError, ValueError):
        return _read(file)


def _parsed(text: str | bytes) -> MetricSamples:
    figures: MetricSamples = json.loads(text)
    return figures


def _read(file: Path) -> MetricSamples:
    return _parsed(file.read_bytes()) if file.exists() else {}


def _counts(family: Metric, sample: Sample) -> bool:
    """Whether a figure only grows."""
    return family.type in ("counter", "histogram") and not sample.name.endswith("_created")


def _of_process(family: Metric, sample: Sample) -> bool:
    """Whether a figure of now is this process's own; locations and versions are the same in all."""
    return family.type == "gauge" and not sample.labels


class _Sum(Collector):
    """The families of one worker with the figures of all."""

    def __init__(self, registry: CollectorRegistry, told: Iterable[MetricSamples]) -> None:
        self._registry = registry
        self._told = list(told)

    def collect(self) -> Iterator[Metric]:
        families = {family.name: family for family in self._registry.collect()}
        sums: dict[str, MetricSamples] = {name: {} for name in families}
        for figures in self._told:
            for key, value in figures.items():
                name = json.loads(key)[0]
                if name not in sums:
                    continue
                found = sums[name].get(key)
                if found is None:
                    sums[name][key] = value
                elif name.endswith("_timestamp_seconds"):
                    sums[name][key] = max(found, value)
                else:
                    sums[name][key] = found + value
        for family in families.values():
            same = [
                s for s in family.samples if not _counts(family, s) and not _of_process(family, s)
            ]
            family.samples = same
            for key, value in sums[family.name].items():
                _, name, labels = json.loads(key)
                family.add_sample(name, labels, value)
            yield family
