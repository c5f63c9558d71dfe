"""How fresh answers are: create and delete images at a real Glance, and watch the gateway.

    python -m benchmarks.freshness [--images 200] [--ways events poll probe sweep]

Starts a Glance (from PyPI, in a cache outside the tree), a RabbitMQ and, for each way in which a
change can arrive, a gateway that knows this way only. A time begins when Glance has confirmed the
change and ends with the first answer that shows it; each is asked for some 100 times a second.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.common import out, table
from tests.glance.freshness import WAYS, cloud, gateway_by, measure
from tests.glance.install import install
from tests.support.rabbit import RabbitServer


def row(name: str, what: str, times: list[float]) -> tuple[str, ...]:
    if not times:
        return name, what, "not told", "", ""
    times = sorted(times)
    points = (times[len(times) // 2], times[int(len(times) * 0.99)], times[-1])
    return name, what, *(f"{1000 * seconds:,.0f}" for seconds in points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--pace", type=float, default=0.1, help="seconds between two changes")
    options = parser.parse_args()
    broker = RabbitServer().start()
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            with cloud(install(), directory, broker) as server:
                for way in options.ways:
                    with gateway_by(way, server, directory, broker) as gateway:
                        seen = measure(way, gateway, server, options.images, options.pace)
                    rows.append(row(way, "created, then found", seen.created))
                    rows.append(row(way, "deleted, then absent", seen.deleted))
    finally:
        broker.close()
    rows = make_table(
        f"{options.images} images", "way", "change", "median ms", "p99 ms", "longest ms"
    )
    for cells in rows:
        rows.add_row(*cells)
    out.print(rows)


if __name__ == "__main__":
    main()
