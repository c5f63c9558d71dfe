"""A running gateway for the benchmarks, and wrk to send requests to it."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import batches, text_id
from benchmarks.contenders import HiredisSocket
from benchmarks.index_memory import IDS_PER_CLAIM
from benchmarks.machine import (
    START_TIMEOUT_SECONDS,
    MissingError,
    find_program,
    on_core,
    stop_process,
)
from benchmarks.redis_server import RedisServer
from resolver.index import open_index

LOCATION_URL = "http://127.0.0.1:9"
"""A Glance server that does not exist: the gateway only redirects to it."""

WRK_SCRIPT = """
local requests, at = {}, 0
function init(args)
  for id in io.lines("%(file)s") do
    requests[#requests + 1] = wrk.format("GET", "%(path)s" .. id, {%(headers)s})
  end
end
function request() at = at %% #requests + 1; return requests[at] end
"""
"""Makes wrk request each id of a file in turn."""


@contextmanager
def run_gateway(
    redis_url: str,
    core: int | None,
    *,
    locations: int = 1,
    location_urls: Sequence[str] = (LOCATION_URL,),
    role: str = "gateway",
    module: Sequence[str] = ("resolver",),
    options: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, int]]:
    """Runs `glance-resolver serve` and gives its port and pid.

    Args:
        redis_url: where its index is.
        core: the core that it runs on; None for any.
        locations: how many it has, named ``a``, ``b1``, ``b2``, …
        location_urls: where the first of them are; the others do not exist.
        role: as in RESOLVER_ROLE.
        module: the Python module to run, with arguments before ``serve``.
        options: further ones of ``serve``.
        settings: further ones, without ``RESOLVER_``.

    Raises:
        MissingError: it did not start.
    """
    all_settings = {
        **{"REDIS_URL": redis_url, "ACCESS_LOG": "off", "PORT": "0", "ROLE": role},
        **{"LOG_LEVEL": "error", "INDEX_TIMEOUT": "5", **(settings or {})},
    }
    clean = {name: value for name, value in os.environ.items() if name[:9] != "RESOLVER_"}
    clean.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed gateway has its bytecode
    environment = clean | {f"RESOLVER_{name}": value for name, value in all_settings.items()}
    urls = [*location_urls, *(f"{LOCATION_URL}/{n}" for n in range(len(location_urls), locations))]
    location_options = [
        f"--location={f'b{number}' if number else 'a'}={url}" for number, url in enumerate(urls)
    ]
    prefix = [] if core is None else on_core(core)
    with tempfile.NamedTemporaryFile() as log:  # a pipe that nobody reads would block it
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", *module, "serve", *location_options, *options],
            env=environment,
            stderr=log,
        )
        try:
            while process.poll() is None:
                text = Path(log.name).read_text()
                if match := re.search(r"listens at https?://127\.0\.0\.1:(\d+)", text):
                    yield int(match[1]), process.pid
                    return
                time.sleep(0.005)
            raise MissingError(f"glance-resolver did not start: {Path(log.name).read_text()}")
        finally:
            stop_process(process)


@contextmanager
def run_gateway_of(
    locations: Mapping[str, Mapping[str, Any]],
    redis_url: str,
    core: int | None,
    settings: Mapping[str, str],
) -> Iterator[tuple[int, int]]:
    """As `run_gateway`, with these locations: the fields of each by its name."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump({"locations": locations}, file)  # JSON is YAML
        file.flush()
        with run_gateway(
            redis_url,
            core,
            location_urls=[],
            locations=0,
            options=["--locations", file.name],
            settings=settings,
        ) as started:
            yield started


async def fill_index(redis: RedisServer, ids: Sequence[bytes], *, strings: bool = True) -> None:
    """Claims the ids for location ``a``. ``strings``: also sets a string key for each, which nginx
    and the baseline server read."""
    async with open_index(redis.url) as index:
        number = (await index.records.load()).records["a"].location.number
        with HiredisSocket(redis.port) as client:
            for batch in batches(ids, IDS_PER_CLAIM):
                await index.claims.claim(number, batch)
                if strings:
                    await client.run([("SET", text_id(image), LOCATION_URL) for image in batch])


def run_wrk(
    port: int,
    script: Path,
    core: int,
    connections: int,
    seconds: int,
    *,
    errors_expected: bool = False,
    scheme: str = "http",
) -> float:
    """Answered requests a second. ``errors_expected``: statuses of 400 and up are answers too.

    Raises:
        MissingError: wrk is not installed.
        RuntimeError: some requests failed.
    """
    wrk = find_program("wrk", "wrk")
    command = [*on_core(core), wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=10s"]
    output = subprocess.run(
        [*command, "-s", str(script), f"{scheme}://127.0.0.1:{port}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + START_TIMEOUT_SECONDS,
    ).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    is_error = "Non-2xx" in output and not errors_expected
    if rate is None or is_error or "Socket errors" in output:
        raise RuntimeError(output)
    return float(rate[1])


def write_wrk_script(
    folder: Path,
    name: str,
    ids: Sequence[bytes],
    count: int,
    path: str = "/v2/images/",
    headers: str = "",
) -> Path:
    """A script for wrk that requests ``count`` of these ids, drawn at random. The ids are in a file
    of the same name with the suffix ``.ids``. ``headers``: header fields, as in a Lua table."""
    ids_file, script = folder / f"{name}.ids", folder / f"{name}.lua"
    chosen = random.Random(5).choices(ids, k=count)
    ids_file.write_text("\n".join(text_id(image) for image in chosen))
    script.write_text(WRK_SCRIPT % {"file": ids_file, "path": path, "headers": headers})
    return script


def fetch_redirect(port: int, text: str) -> str:
    """``<status> <Location>`` of the answer about an image."""
    url = f"http://127.0.0.1:{port}/v2/images/{text}"
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", url]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
