"""The metrics of several workers, added up by the worker that is scraped."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from resolver.gateway.metrics.worker_metrics import WorkerMetrics
from resolver.gateway.server import serving
from resolver.services import open_services
from resolver.settings import Settings


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


StartWorker = Callable[[int], Awaitable[Worker]]


@pytest.fixture
def folder(short_path: Path) -> Iterator[Path]:
    """Short enough for the path of a Unix socket."""
    path = short_path / "workers"
    path.mkdir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def start_worker(folder: Path) -> AsyncIterator[StartWorker]:
    """Starts a worker in a slot; all are closed at the end."""
    with ExitStack() as stack:

        async def start(slot: int) -> Worker:
            worker = Worker(folder, slot)
            await worker.metrics.open(worker.registry)
            stack.callback(worker.metrics.close, worker.registry)
            return worker

        yield start


async def test_a_scrape_adds_up_all_workers(start_worker: StartWorker) -> None:
    first, second = await start_worker(0), await start_worker(1)
    first.requests.inc(2)
    second.requests.inc(3)
    first.connections.set(4)
    second.connections.set(5)
    for worker in (first, second):
        assert await worker.scrape() == {"requests_total": 5, "connections": 9}


async def test_a_location_is_shown_by_any_worker_as_the_one_that_checks_it_does(
    start_worker: StartWorker,
) -> None:
    """While it changes hands two may check it, or none."""
    first, second = await start_worker(0), await start_worker(1)
    name = "glance_resolver_location_up"
    gauges = [
        Gauge(name, "A location.", ["location"], registry=worker.registry)
        for worker in (first, second)
    ]
    gauges[0].labels("one").set(1)
    gauges[1].labels("one").set(1)
    gauges[1].labels("two").set(0)
    for worker in (first, second):
        text = (await worker.metrics.render(worker.registry)).decode()
        assert sorted(line for line in text.splitlines() if line.startswith(name)) == [
            f'{name}{{location="one"}} 1.0',
            f'{name}{{location="two"}} 0.0',
        ]


async def test_times_are_the_latest_of_all_workers(start_worker: StartWorker) -> None:
    first, second = await start_worker(0), await start_worker(1)
    for worker, started in ((first, 5.0), (second, 7.0)):
        start_time = Gauge("process_start_time_seconds", "A time.", registry=worker.registry)
        start_time.set(started)
    assert (await first.scrape())["process_start_time_seconds"] == 7


async def test_counters_survive_their_worker_and_gauges_do_not(start_worker: StartWorker) -> None:
    first, second = await start_worker(0), await start_worker(1)
    second.requests.inc(3)
    second.connections.set(5)
    second.metrics.close(second.registry)
    assert await first.scrape() == {"requests_total": 3, "connections": 0}
    replacement = await start_worker(1)
    replacement.requests.inc()
    assert await first.scrape() == {"requests_total": 4, "connections": 0}


async def test_a_start_that_fails_leaves_nothing_running(folder: Path) -> None:
    """Its folder is missing, so that the worker could not answer the others."""
    settings = Settings(port=0, admin_tokens=("ops=a-token-0123456789",))
    async with open_services(settings) as services:
        before = asyncio.all_tasks()
        with pytest.raises(OSError, match="No such file"):
            async with serving(services, worker_metrics=WorkerMetrics(folder / "missing", 0)):
                pytest.fail("it serves")
        assert asyncio.all_tasks() == before
        async with serving(services) as url, aiohttp.ClientSession(url) as http:
            assert (await http.get("/livez")).status == 200


async def test_a_folder_that_is_removed_fails_no_scrape(
    folder: Path, start_worker: StartWorker
) -> None:
    """The arbiter removes it at its end, while its last worker may still answer."""
    worker = await start_worker(0)
    worker.requests.inc(2)
    shutil.rmtree(folder)
    assert await worker.scrape() == {"requests_total": 2, "connections": 0}


async def test_a_file_that_is_removed_while_it_is_read_counts_as_empty(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, gone = await start_worker(0), await start_worker(1)
    gone.metrics.close(gone.registry)
    read_bytes = Path.read_bytes

    def remove_first(path: Path) -> bytes:
        path.unlink()
        return read_bytes(path)

    worker.requests.inc()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", remove_first)
        assert await worker.scrape() == {"requests_total": 1, "connections": 0}
