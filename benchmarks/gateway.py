"""Redirects a second and their latency, compared with nginx with Lua and Redis.

``python -m benchmarks.gateway`` takes some ten minutes, ``--small`` three. Parts:

* ``shapes``: what clients really send: new connections, JSON, absent ids, a mix;
* ``callers``: redirects with each ``RESOLVER_READ_AUTH``;
* ``throughput``: each contender as fast as it can, on one core;
* ``tail``: latency at a fixed rate, 70 % of the contender's own peak;
* ``sizes``: many images, and many locations, compared with few;
* ``workers``: two workers compared with one;
* ``footprint``: memory with a million cached ids, and the time of a start.

The server has the first core to itself. The load generator (wrk or the open loop) and Redis share
the second.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import (
    Measurements,
    Step,
    make_table,
    out,
    parse_arguments,
    percentile,
    print_verdict,
    progress_bar,
    rotated,
    sorted_ids,
    text_id,
)
from benchmarks.gateway_callers import callers
from benchmarks.gateway_process import (
    LOCATION_URL,
    fetch_redirect,
    fill_index,
    run_gateway,
    run_wrk,
    write_wrk_script,
)
from benchmarks.gateway_shapes import shapes
from benchmarks.machine import (
    CORES,
    NoiseGuard,
    cpu_seconds,
    describe_machine,
    on_core,
    pin_to_core,
    resident_mib,
    stop_process,
)
from benchmarks.nginx import run_nginx, wait_for_port
from benchmarks.openloop import OpenLoop
from benchmarks.redis_server import RedisServer
from tests.support.process import free_port

PARTS = ("shapes", "callers", "throughput", "tail", "sizes", "workers", "footprint")
SERVER_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 64
REQUESTED_IDS = 20_000
"""Different ids that are requested."""

WARM, COLD = "glance-resolver, warm", "glance-resolver, cold"
NGINX, NGINX_RETURN = "nginx + Lua + Redis", "nginx `return 307`"
BASELINE = "aiohttp, redis-py a request"
THROUGHPUT_AIMS = {WARM: 1.2, COLD: 0.6}
"""Ratio to nginx + Lua + Redis."""

COLD_SETTINGS = {"CACHE_SIZE": "1000"}
"""So small that an id is evicted before it is requested again."""

TAIL_LOAD = 0.7
"""Part of the contender's own peak rate."""

SHARES = {"50 %": 0.5, "99 %": 0.99, "99.9 %": 0.999, "slowest": 1.0}
P99_AIM_MS, P999_AIM_MS = 5.0, 20.0
SIZES_LOAD = 0.5
P99_RATIO_AIM, WORKERS_RATIO_AIM = 1.2, 1.8
MEMORY_AIM_MIB, START_AIM_SECONDS = 250, 0.5

CACHED_IDS, CACHE_FILL_RATE, STARTS = 1_000_000, 15_000, 9
"""For `footprint`: ids in the cache, requests a second that fill it, and starts that are timed."""

noise = NoiseGuard()


class Contender(NamedTuple):
    name: str
    port: int
    pid: int
    script: Path
    """For wrk."""


class Comparison(NamedTuple):
    """Requests a second, and the server's microseconds of processor time for each."""

    rates: Measurements
    cpu_micros: Measurements


@contextmanager
def run_baseline(redis: RedisServer) -> Iterator[tuple[int, int]]:
    """Runs `benchmarks.baseline_server` and gives its port and pid."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.baseline_server", str(port), redis.url]
    process = subprocess.Popen([*on_core(SERVER_CORE), *command])
    try:
        wait_for_port(port, process)
        yield port, process.pid
    finally:
        stop_process(process)


def throughput(count: int, repeats: int, seconds: int, step: Step) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(RedisServer(LOAD_CORE))
        ids = sorted_ids(count)
        step(f"filling {count:,} images")
        cold = stack.enter_context(run_gateway(redis.url, SERVER_CORE, settings=COLD_SETTINGS))
        warm = stack.enter_context(run_gateway(redis.url, SERVER_CORE))
        asyncio.run(fill_index(redis, ids))
        nginx = stack.enter_context(run_nginx(redis, folder, SERVER_CORE))
        baseline = stack.enter_context(run_baseline(redis))
        script = write_wrk_script(folder, "some", ids, REQUESTED_IDS)
        script_without_lookup = write_wrk_script(folder, "bare", ids, REQUESTED_IDS, "/bare/")
        contenders = [
            Contender(COLD, *cold, script),
            Contender(WARM, *warm, script),
            Contender(NGINX, nginx.port, nginx.worker_pid, script),
            Contender(NGINX_RETURN, nginx.port, nginx.worker_pid, script_without_lookup),
            Contender(BASELINE, *baseline, script),
        ]
        for contender in contenders:
            if contender.name != NGINX_RETURN:
                check_redirects(contender.port, ids)
        comparison = compare(contenders, repeats, seconds, step)
    title = (
        f"Redirects a second by one process on one core, {CONNECTIONS} connections, {count:,} "
        "images"
    )
    print_comparison(title, comparison, NGINX)
    for name, aim in THROUGHPUT_AIMS.items():
        ratio = comparison.rates.ratio(name, NGINX)
        print_verdict(f"{name}: {ratio:.2f} times", f"{aim:g} times", met=ratio >= aim)


def compare(contenders: Sequence[Contender], repeats: int, seconds: int, step: Step) -> Comparison:
    """Sends requests to the contenders in turns, each as fast as it can."""
    comparison = Comparison(Measurements(), Measurements())
    for repeat in range(repeats):
        for contender in rotated(contenders, repeat):
            step(f"{contender.name}, repeat {repeat + 1}")
            rate, micros = noise.measure(partial(measure_peak, contender, seconds))
            comparison.rates.add(contender.name, rate)
            comparison.cpu_micros.add(contender.name, micros)
    return comparison


def measure_peak(contender: Contender, seconds: int) -> tuple[float, float]:
    """Requests a second, and the server's microseconds of processor time for each."""
    pids = [contender.pid, *children(contender.pid)]
    before = sum(map(cpu_seconds, pids))
    rate = run_wrk(contender.port, contender.script, LOAD_CORE, CONNECTIONS, seconds)
    return rate, (sum(map(cpu_seconds, pids)) - before) / (rate * seconds) * 1e6


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def check_redirects(port: int, ids: Sequence[bytes]) -> None:
    """Raises RuntimeError unless the server redirects to the right location."""
    for text in map(text_id, ids[:3]):
        if (answer := fetch_redirect(port, text)) != f"307 {LOCATION_URL}/v2/images/{text}":
            raise RuntimeError(f"port {port} answered {answer}")


def print_comparison(title: str, comparison: Comparison, to: str) -> None:
    rates, cpu_micros = comparison
    rows = make_table(title, "", "median (least - most)", f"to {to}", "server's µs each", "to that")
    for name in rates.names():
        rows.add_row(
            name,
            rates.format(name),
            rates.format_ratio(name, to),
            cpu_micros.format(name, ".1f"),
            f"{cpu_micros.ratio(name, to):.2f}",
        )
    out.print(rows)


def open_loop_requests(script: Path) -> list[bytes]:
    """The requests of a script for wrk, as the open loop sends them."""
    return [make_request(text) for text in script.with_suffix(".ids").read_text().split()]


def make_request(text: str) -> bytes:
    return f"GET /v2/images/{text} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def measure_latencies(
    port: int, requests: Sequence[bytes], rate: float, seconds: int
) -> list[float]:
    """Seconds from when each request was due to its answer, sorted."""
    loop = OpenLoop(port, requests, CONNECTIONS)
    try:
        return noise.measure(partial(loop.run, rate, seconds))
    finally:
        loop.close()


def tail(count: int, repeats: int, seconds: int, step: Step) -> None:
    milliseconds = {share: Measurements() for share in SHARES}
    rates = Measurements()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(RedisServer(LOAD_CORE))
        ids = sorted_ids(count)
        step(f"tail: filling {count:,} images")
        cold, _ = stack.enter_context(run_gateway(redis.url, SERVER_CORE, settings=COLD_SETTINGS))
        warm, _ = stack.enter_context(run_gateway(redis.url, SERVER_CORE))
        asyncio.run(fill_index(redis, ids))
        nginx = stack.enter_context(run_nginx(redis, folder, SERVER_CORE)).port
        script = write_wrk_script(folder, "some", ids, REQUESTED_IDS)
        requests = open_loop_requests(script)
        for repeat in range(repeats):
            for name, port in rotated(((COLD, cold), (WARM, warm), (NGINX, nginx)), repeat):
                step(f"tail: {name}, repeat {repeat + 1}")
                peak = noise.measure(
                    partial(run_wrk, port, script, LOAD_CORE, CONNECTIONS, seconds)
                )
                rate = TAIL_LOAD * peak
                latencies = measure_latencies(port, requests, rate, seconds)
                rates.add(name, rate)
                for share, part in SHARES.items():
                    milliseconds[share].add(name, percentile(latencies, part) * 1e3)
    rows = make_table(
        f"Milliseconds since a request was due, at {TAIL_LOAD:.0%} of the own peak, {count:,} "
        "images",
        *("", "requests/s", *SHARES, f"99 % to {NGINX}"),
    )
    for name in rates.names():
        cells = [milliseconds[share].format(name, ".1f") for share in SHARES]
        ratio = milliseconds["99 %"].ratio(name, NGINX)
        rows.add_row(name, rates.format(name), *cells, f"{ratio:.2f}")
    out.print(rows)
    for name in THROUGHPUT_AIMS:
        for share, aim in (("99 %", P99_AIM_MS), ("99.9 %", P999_AIM_MS)):
            latency = milliseconds[share].median(name)
            print_verdict(
                f"{name}: {share} within {latency:.1f} ms", f"{aim:g} ms", met=latency <= aim
            )


def sizes(most: int, repeats: int, seconds: int, step: Step) -> None:
    few, many = "2 locations, 100,000 images", f"2 locations, {most:,} images"
    many_locations = "200 locations, 100,000 images"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contenders = []
        for name, count, locations in (
            (few, 100_000, 2),
            (many, most, 2),
            (many_locations, 100_000, 200),
        ):
            step(f"sizes: filling {name}")
            redis = stack.enter_context(RedisServer(LOAD_CORE))
            ids = sorted_ids(count)
            port, pid = stack.enter_context(
                run_gateway(redis.url, SERVER_CORE, settings=COLD_SETTINGS, locations=locations)
            )
            asyncio.run(fill_index(redis, ids, strings=False))
            script = write_wrk_script(folder, f"{locations}-{count}", ids, REQUESTED_IDS)
            contenders.append(Contender(name, port, pid, script))
        comparison = compare(contenders, repeats, seconds, step)
        print_comparison("Cold redirects a second, by images and locations", comparison, few)
        slowest = min(comparison.rates.median(contender.name) for contender in contenders)
        rate = SIZES_LOAD * slowest
        milliseconds = Measurements()
        for repeat in range(repeats):
            for contender in rotated(contenders, repeat):
                step(f"sizes: tail of {contender.name}, repeat {repeat + 1}")
                requests = open_loop_requests(contender.script)
                latencies = measure_latencies(contender.port, requests, rate, seconds)
                milliseconds.add(contender.name, percentile(latencies, 0.99) * 1e3)
    for contender in contenders:
        ratio = milliseconds.ratio(contender.name, few)
        latency = milliseconds.format(contender.name, ".2f")
        print_verdict(
            f"{contender.name}: 99 % within {latency} ms at {rate:,.0f}/s, {ratio:.2f} times",
            f"{P99_RATIO_AIM:g} times",
            met=ratio <= P99_RATIO_AIM,
        )


def workers(count: int, repeats: int, seconds: int, step: Step) -> None:
    one_worker, two_workers = "1 worker", "2 workers"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(RedisServer(LOAD_CORE))
        ids = sorted_ids(count)
        step(f"workers: filling {count:,} images")
        contenders = []
        script = write_wrk_script(folder, "some", ids, REQUESTED_IDS)
        for name, options in ((one_worker, ()), (two_workers, ("--workers", "2"))):
            process = stack.enter_context(run_gateway(redis.url, None, options=options))
            contenders.append(Contender(name, *process, script))
        asyncio.run(fill_index(redis, ids))
        comparison = compare(contenders, repeats, seconds, step)
    title = f"Workers, on {len(CORES)} cores that wrk and Redis use too"
    print_comparison(title, comparison, one_worker)
    ratio = comparison.rates.ratio(two_workers, one_worker)
    if len(CORES) > 3:
        aim = WORKERS_RATIO_AIM
        print_verdict(f"{ratio:.2f} times with two workers", f"{aim:g} times", met=ratio >= aim)
    else:
        out.print(
            f"Two workers and their load need four cores. On {len(CORES)} cores this can be said: "
            f"a request costs {comparison.cpu_micros.ratio(two_workers, one_worker):.2f} times the "
            "processor time that it costs one worker."
        )


def footprint(small: bool, step: Step) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(LOAD_CORE))
        count = CACHED_IDS // 20 if small else CACHED_IDS
        settings = {"CACHE_SIZE": str(count + (1 << 16)), "CACHE_TTL": "3600"}
        step("footprint: filling")
        ids = sorted_ids(count)
        port, pid = stack.enter_context(run_gateway(redis.url, SERVER_CORE, settings=settings))
        asyncio.run(fill_index(redis, ids, strings=False))
        before = resident_mib(pid)
        step(f"footprint: requesting {count:,} ids")
        request_each(port, [text_id(image_id) for image_id in ids])
        after = resident_mib(pid)
        start_seconds = Measurements()
        for _ in range(STARTS):
            step("footprint: start")
            started = time.perf_counter()
            with run_gateway(redis.url, SERVER_CORE) as (new_port, _):
                fetch_redirect(new_port, text_id(ids[0]))
                start_seconds.add("start", time.perf_counter() - started)
    print_verdict(
        f"{after:.0f} MiB with {count:,} ids cached, {before:.0f} MiB before",
        f"{MEMORY_AIM_MIB} MiB",
        met=after <= MEMORY_AIM_MIB,
    )
    print_verdict(
        f"start to first answer: {start_seconds.format('start', '.2f')} s",
        f"{START_AIM_SECONDS} s",
        met=start_seconds.median("start") <= START_AIM_SECONDS,
    )


def request_each(port: int, ids: Sequence[str]) -> None:
    """Requests each id once.

    Raises:
        RuntimeError: not all were answered.
    """
    loop = OpenLoop(port, [make_request(text) for text in ids], CONNECTIONS)
    answered = len(loop.run(CACHE_FILL_RATE, len(ids) / CACHE_FILL_RATE))
    loop.close()
    if answered < len(ids) - 1:
        raise RuntimeError(f"{answered} of {len(ids)} were answered")


def main() -> None:
    options = parse_arguments(
        __doc__, ("--images", 0, "images"), ("--rounds", 0, "repeats"), parts=PARTS
    )
    small = options.small
    out.print(f"benchmarks.gateway: {describe_machine()}")
    pin_to_core(LOAD_CORE)
    count = options.images or (20_000 if small else 1_000_000)
    repeats, seconds = options.rounds or (3 if small else 7), 2 if small else 4
    with progress_bar(25 + 40 * repeats) as step:
        if "shapes" in options.parts:
            shapes(min(count, 20_000), repeats, seconds, step)
        if "callers" in options.parts:
            callers(repeats, seconds, step)
        if "throughput" in options.parts:
            throughput(count, repeats, seconds, step)
        if "tail" in options.parts:
            tail(count, repeats, seconds, step)
        if "sizes" in options.parts:
            sizes(500_000 if small else 5_000_000, repeats, seconds, step)
        if "workers" in options.parts:
            workers(count, repeats, seconds, step)
        if "footprint" in options.parts:
            footprint(small, step)
    if noise.disturbed_results:
        out.print(f"{noise.disturbed_results} results are disturbed by other processes")


if __name__ == "__main__":
    main()
