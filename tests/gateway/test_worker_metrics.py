"""The metrics of several workers, added up by the worker that is scraped."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from resolver.gateway.metrics.worker_metrics import WorkerMetrics


class Worker:
    """One worker with a counter and a gauge of its own."""

    def __init__(self, folder: Path, slot: int) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "A counter.", registry=self.registry)
        self.connections = Gauge("connections", "A gauge.", registry=self.registry)
        self.metrics = WorkerMetrics(folder, slot)

    async def scrape(self) -> dict[str, float]:
        """Samples without labels, by name."""
        text = (await self.metrics.render(self.registry)).decode()
        return {
            name: float(value)
            for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)
            if not name.endswith("_created")
        }


@pytest.fixture
def folder(short_path: Path) -> Iterator[Path]:
    """Short enough for the path of a Unix socket."""
    path = short_path / "workers"
    path.mkdir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


async def test_a_scrape_adds_up_all_workers(folder: Path) -> None:
    first, second = Worker(folder, 0), Worker(folder, 1)
    for worker in (first, second):
        await worker.metrics.open(worker.registry)
    first.requests.inc(2)
    second.requests.inc(3)
    first.connections.set(4)
    second.connections.set(5)
    for worker in (first, second):
        assert await worker.scrape() == {"requests_total": 5, "connections": 9}
    for worker in (first, second):
        worker.metrics.close(worker.registry)


async def test_counters_survive_their_worker_and_gauges_do_not(folder: Path) -> None:
    first, second = Worker(folder, 0), Worker(folder, 1)
    for worker in (first, second):
        await worker.metrics.open(worker.registry)
    second.requests.inc(3)
    second.connections.set(5)
    second.metrics.close(second.registry)
    assert await first.scrape() == {"requests_total": 3, "connections": 0}
    replacement = Worker(folder, 1)
    await replacement.metrics.open(replacement.registry)
    replacement.requests.inc()
    assert await first.scrape() == {"requests_total": 4, "connections": 0}
    for worker in (first, replacement):
        worker.metrics.close(worker.registry)


async def test_a_folder_that_is_removed_fails_no_scrape(folder: Path) -> None:
    """The arbiter removes it at its end, while its last worker may still answer."""
    worker = Worker(folder, 0)
    await worker.metrics.open(worker.registry)
    worker.requests.inc(2)
    shutil.rmtree(folder)
    assert await worker.scrape() == {"requests_total": 2, "connections": 0}
    worker.metrics.close(worker.registry)


async def test_a_file_that_is_removed_while_it_is_read_counts_as_empty(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, gone = Worker(folder, 0), Worker(folder, 1)
    for each in (worker, gone):
        await each.metrics.open(each.registry)
    gone.metrics.close(gone.registry)
    read_bytes = Path.read_bytes

    def remove_first(path: Path) -> bytes:
        path.unlink()
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", remove_first)
    worker.requests.inc()
    assert await worker.scrape() == {"requests_total": 1, "connections": 0}
    worker.metrics.close(worker.registry)
