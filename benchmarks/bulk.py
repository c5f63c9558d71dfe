"""``POST /resolve`` with 1,000 ids per request, compared with nginx + Lua + Redis, one id each.

``python -m benchmarks.bulk`` takes two minutes with a million images in Redis, ``--small`` half a
minute. Each server has the first core to itself; wrk, which sends the requests, and Redis share the
second.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.common import (
    Measurements,
    batches,
    make_table,
    out,
    parse_arguments,
    print_verdict,
    progress_bar,
    rotated,
    sorted_ids,
    text_id,
)
from benchmarks.gateway_process import (
    LOCATION_URL,
    fetch_redirect,
    fill_index,
    run_gateway,
    run_wrk,
    write_wrk_script,
)
from benchmarks.machine import cpu_seconds, describe_machine, pin_to_core
from benchmarks.nginx import run_nginx
from benchmarks.redis_server import RedisServer

JSON, NDJSON = "POST /resolve, 1,000 ids", "POST /resolve, 1,000 ids, NDJSON"
NGINX = "nginx + Lua + Redis, one by one"
SERVER_CORE, LOAD_CORE = 0, 1

IDS_PER_REQUEST = 1000
BODIES = 50
"""Different bodies that wrk sends in turn."""

NGINX_IDS = 50_000
"""Different ids that wrk requests from nginx."""

GATEWAY_CONNECTIONS, NGINX_CONNECTIONS = 4, 64

RATE_AIM, RATIO_AIM = 200_000, 5.0
"""Ids a second, and ratio to nginx."""

POST_SCRIPT = """
local requests, at = {}, 0
function init(args)
  for body in io.lines("%(file)s") do
    requests[#requests + 1] = wrk.format("POST", "/resolve",
      {["Content-Type"] = "application/json", ["Accept"] = "%(accept)s"}, body)
  end
end
function request() at = at %% #requests + 1; return requests[at] end
"""


def check_answers(gateway_port: int, nginx_port: int, ids: Sequence[str]) -> None:
    """Raises RuntimeError unless both find the right location."""
    url = f"http://127.0.0.1:{gateway_port}/resolve"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(ids).encode())) as reply:
        found = [(row["id"], row["owners"][0]["location"]) for row in json.load(reply)]
    if found != [(image, "a") for image in ids]:
        raise RuntimeError(f"/resolve answered {found[:2]}")
    expected = f"307 {LOCATION_URL}/v2/images/{ids[0]}"
    if (answer := fetch_redirect(nginx_port, ids[0])) != expected:
        raise RuntimeError(f"nginx answered {answer}")


def write_scripts(folder: Path, ids: list[bytes]) -> dict[str, Path]:
    """The script of wrk for each contender."""
    count = BODIES * IDS_PER_REQUEST
    requested = [text_id(image_id) for image_id in random.Random(5).choices(ids, k=count)]
    bodies = folder / "bodies"
    bodies.write_text("\n".join(json.dumps(batch) for batch in batches(requested, IDS_PER_REQUEST)))
    scripts = {NGINX: write_wrk_script(folder, "nginx", ids, NGINX_IDS)}
    for name, accept in ((JSON, "application/json"), (NDJSON, "application/x-ndjson")):
        scripts[name] = folder / f"{len(scripts)}.lua"
        scripts[name].write_text(POST_SCRIPT % {"file": bodies, "accept": accept})
    return scripts


def compare(count: int, repeats: int, seconds: int) -> None:
    rates, cpu_micros = Measurements(), Measurements()
    with (
        tempfile.TemporaryDirectory() as name,
        progress_bar(1 + 3 * repeats) as step,
        RedisServer(LOAD_CORE) as redis,
        run_gateway(redis.url, SERVER_CORE) as (port, pid),
        run_nginx(redis, Path(name), SERVER_CORE) as nginx,
    ):
        step(f"{count:,} images")
        ids = sorted_ids(count)
        asyncio.run(fill_index(redis, ids))
        scripts = write_scripts(Path(name), ids)
        check_answers(port, nginx.port, [text_id(image_id) for image_id in ids[:3]])

        def measure(contender: str, port: int, pid: int, connections: int, ids_each: int) -> None:
            before = cpu_seconds(pid)
            script = scripts[contender]
            rate = run_wrk(port, script, LOAD_CORE, connections, seconds) * ids_each
            rates.add(contender, rate)
            cpu_micros.add(contender, (cpu_seconds(pid) - before) / (rate * seconds) * 1e6)

        through_gateway = (port, pid, GATEWAY_CONNECTIONS, IDS_PER_REQUEST)
        contenders: list[tuple[str, Callable[[], None]]] = [
            (JSON, partial(measure, JSON, *through_gateway)),
            (NDJSON, partial(measure, NDJSON, *through_gateway)),
            (NGINX, partial(measure, NGINX, nginx.port, nginx.worker_pid, NGINX_CONNECTIONS, 1)),
        ]
        for repeat in range(repeats):
            for contender, run in rotated(contenders, repeat):
                step(f"{contender}, repeat {repeat + 1}")
                run()
    print_results(count, rates, cpu_micros)


def print_results(count: int, rates: Measurements, cpu_micros: Measurements) -> None:
    rows = make_table(
        f"Ids resolved a second by one process on one core, {count:,} images",
        *("", "ids/s: median (least - most)", "to nginx", "server's µs an id", "to nginx"),
    )
    for name in rates.names():
        rows.add_row(
            name,
            rates.format(name),
            f"{rates.ratio(name, NGINX):.2f}",
            cpu_micros.format(name, ".1f"),
            f"{cpu_micros.ratio(name, NGINX):.2f}",
        )
    out.print(rows)
    rate, ratio = rates.median(JSON), rates.ratio(JSON, NGINX)
    print_verdict(f"{rate:,.0f} ids/s", f"{RATE_AIM:,}", met=rate >= RATE_AIM)
    print_verdict(f"{ratio:.1f} times nginx", f"{RATIO_AIM:g} times", met=ratio >= RATIO_AIM)


def main() -> None:
    options = parse_arguments(__doc__, ("--images", 0, "images"), ("--rounds", 0, "repeats"))
    small = options.small
    out.print(f"benchmarks.bulk: {describe_machine()}")
    pin_to_core(LOAD_CORE)
    count = options.images or (50_000 if small else 1_000_000)
    compare(count, options.rounds or (3 if small else 5), 2 if small else 5)


if __name__ == "__main__":
    main()
