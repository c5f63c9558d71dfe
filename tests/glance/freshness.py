"""How long a change at a real Glance takes until the gateway's answers show it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.glance.gateway import Gateway
from tests.glance.install import GlanceHome
from tests.support.glance import GlanceProcess
from tests.support.rabbit import RabbitServer
from tests.support.wait import wait_until_blocking

ALONE = {
    "RESOLVER_PROBE": "off",
    "RESOLVER_POLL_INTERVAL": "0",
    "RESOLVER_SWEEP_INTERVAL": "3600",
    # All images are deleted, or all but a few, which the shrink guard would stop.
    "RESOLVER_SHRINK_GUARD": "1",
}
"""Settings with which a gateway notices no change by itself; each way adds its own."""

WAYS: Mapping[str, Mapping[str, str]] = {
    "events": {},
    "poll": {"RESOLVER_POLL_INTERVAL": "3"},
    "probe": {"RESOLVER_PROBE": "on", "RESOLVER_ABSENT_TTL": "0"},
    "sweep": {"RESOLVER_SWEEP_INTERVAL": "3"},
}
"""Each way in which a change arrives, and the settings that enable it."""

MAX_SECONDS = 60.0
"""After this time a change counts as never seen."""


@dataclass(frozen=True)
class ChangeDelays:
    """Seconds until each change was seen; empty where the way does not report such changes."""

    created: list[float]
    deleted: list[float]


@contextmanager
def cloud(home: GlanceHome, directory: Path, broker: RabbitServer) -> Iterator[GlanceProcess]:
    """One Glance that sends notifications."""
    with GlanceProcess(
        home, directory / "glance", broker=broker.url.replace("amqp:", "rabbit:")
    ) as server:
        # With its first notification Glance makes the exchange.
        for _ in range(3):
            server.create(queued=True)
        yield server


@contextmanager
def gateway_by(
    way: str, server: GlanceProcess, directory: Path, broker: RabbitServer
) -> Iterator[Gateway]:
    """A gateway that notices changes in one way only."""
    folder = directory / way
    folder.mkdir()
    location = {"url": server.url, "auth": {"token_env": "GLANCE_TOKEN"}}
    if way == "events":
        location["notifications"] = {"url_env": "GLANCE_BROKER"}
    file = folder / "locations.yaml"
    file.write_text(yaml.safe_dump({"locations": {"one": location}}))
    gateway = Gateway(
        folder,
        ["--locations", str(file)],
        ["one"],
        {**ALONE, **WAYS[way], "GLANCE_BROKER": broker.url},
    ).start()
    try:
        if way == "events":
            wait_until_blocking(lambda: _connected(gateway), 30, "it is connected to the broker")
        yield gateway
    finally:
        gateway.stop()


def _connected(gateway: Gateway) -> bool:
    coverage = gateway.admin("/locations/one").json()["coverage"]
    return bool(coverage["events"].startswith("connected"))


def measure(
    way: str, gateway: Gateway, server: GlanceProcess, count: int, pace: float
) -> ChangeDelays:
    """Creates and deletes ``count`` images, one every ``pace`` seconds, and times each."""
    with ThreadPoolExecutor(64) as threads:
        ids = [str(uuid.uuid4()) for _ in range(count)]
        created = [
            threads.submit(_until, gateway, text, 200, _at(lambda t=text: _create(server, t)))
            for text in _paced(ids, pace)
        ]
        found = [future.result() for future in created]
        if way == "poll":  # v2 lists no deleted images
            return ChangeDelays(found, [])
        query = "?fresh=1" if way == "probe" else ""
        deleted = [
            threads.submit(_until, gateway, text + query, 404, _at(lambda t=text: server.delete(t)))
            for text in _paced(ids, pace)
        ]
        return ChangeDelays(found, [future.result() for future in deleted])


def _create(server: GlanceProcess, image_id: str) -> None:
    server.create(image_id, queued=True)


def _paced(ids: list[str], pace: float) -> Iterator[str]:
    for text in ids:
        begun = time.monotonic()
        yield text
        time.sleep(max(0.0, pace - (time.monotonic() - begun)))


def _at(change: Callable[[], None]) -> float:
    """Makes a change; returns when Glance has confirmed it, on `time.monotonic`."""
    change()
    return time.monotonic()


def _until(gateway: Gateway, target: str, status: int, since: float) -> float:
    """Seconds from ``since`` until the answer has this status."""
    while (answer := gateway.get(f"/resolve/{target}")).status != status:
        if time.monotonic() - since > MAX_SECONDS:
            raise AssertionError(f"{target}: {answer} after {MAX_SECONDS} s")
        time.sleep(0.005)
    return time.monotonic() - since
