"""How fresh answers are: create and delete images at a real Glance, and poll the gateway.

    python -m benchmarks.freshness [--images 200] [--ways events poll probe sweep]

Starts a Glance (from PyPI, in a cache outside the tree), a RabbitMQ and, for each way in which a
gateway can learn of a change, a gateway that uses only this way. A time starts when Glance has
confirmed the change and ends with the first answer that shows it. The gateway is asked some 100
times a second.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.common import make_table, out, percentile
from tests.glance.freshness import WAYS, cloud, gateway_by, measure
from tests.glance.install import install
from tests.support.rabbit import RabbitServer


def make_row(way: str, change: str, seconds: list[float]) -> tuple[str, ...]:
    """Median, 99th percentile and most, in milliseconds."""
    if not seconds:
        return way, change, "not noticed", "", ""
    ordered = sorted(seconds)
    points = [percentile(ordered, share) for share in (0.5, 0.99, 1.0)]
    return way, change, *(f"{1000 * point:,.0f}" for point in points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--pace", type=float, default=0.1, help="seconds between two changes")
    options = parser.parse_args()
    columns = ("way", "change", "median ms", "p99 ms", "longest ms")
    rows = make_table(f"{options.images} images", *columns)
    broker = RabbitServer().start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            with cloud(install(), directory, broker) as server:
                for way in options.ways:
                    with gateway_by(way, server, directory, broker) as gateway:
                        times = measure(way, gateway, server, options.images, options.pace)
                    rows.add_row(*make_row(way, "created, then found", times.created))
                    rows.add_row(*make_row(way, "deleted, then absent", times.deleted))
    finally:
        broker.close()
    out.print(rows)


if __name__ == "__main__":
    main()
