"""A running gateway for the benchmarks, and wrk to drive it."""

from __future__ import annotations

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

from benchmarks.common import (
    START_TIMEOUT,
    MissingError,
    RedisServer,
    batches,
    on_core,
    program,
    stop,
    text_id,
)
from benchmarks.contenders import Packed
from benchmarks.memory import PAGE
from resolver.index import open_index

LOCATION = "http://127.0.0.1:9"
"""A Glance that is never asked: the gateway only answers."""

GET = """
local requests, at = {}, 0
function init(args)
  for id in io.lines("%(file)s") do
    requests[#requests + 1] = wrk.format("GET", "%(path)s" .. id)
  end
end
function request() at = at %% #requests + 1; return requests[at] end
"""
"""What wrk asks for: each id of a file in turn."""


@contextmanager
def gateway(
    redis_url: str,
    core: int | None,
    *,
    locations: int = 1,
    module: Sequence[str] = ("resolver",),
    command: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, int]]:
    """(port, process) of a running `glance-resolver serve`, with locations ``a``, ``b1``, …, on
    that core, or on any."""
    given = {
        **{"REDIS_URL": redis_url, "ACCESS_LOG": "off", "PORT": "0", "ROLE": "gateway"},
        **{"LOG_LEVEL": "error", "INDEX_TIMEOUT": "5", **(settings or {})},
    }
    clean = {name: value for name, value in os.environ.items() if name[:9] != "RESOLVER_"}
    clean.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has its bytecode
    environment = {**clean, **{f"RESOLVER_{name}": value for name, value in given.items()}}
    others = (f"--location=b{n}={LOCATION}/{n}" for n in range(1, locations))
    arguments = [f"--location=a={LOCATION}", *others]
    where = [] if core is None else on_core(core)
    with tempfile.NamedTemporaryFile() as said:  # a pipe that nobody reads would hold it up
        process = subprocess.Popen(
            [*where, sys.executable, "-m", *module, "serve", *arguments, *command],
            env=environment,
            stderr=said,
        )
        try:
            while process.poll() is None:
                text = Path(said.name).read_text()
                if match := re.search(r"listens at http://127\.0\.0\.1:(\d+)", text):
                    yield int(match[1]), process.pid
                    return
                time.sleep(0.005)
            raise MissingError("glance-resolver did not start")
        finally:
            stop(process)


async def fill(redis: RedisServer, ids: Sequence[bytes], *, strings: bool = True) -> None:
    """Claims of the location ``a``, and for those who know no buckets a string key each."""
    async with open_index(redis.url) as index:
        number = (await index.records.load()).records["a"].location.number
        with Packed(redis.port) as packed:
            for batch in batches(ids, PAGE):
                await index.claims.claim(number, batch)
                if strings:
                    await packed.run([("SET", text_id(raw), LOCATION) for raw in batch])


def drive(port: int, script: Path, core: int, connections: int, seconds: int) -> float:
    """Requests a second that wrk gets answered. Raises RuntimeError where some failed."""
    wrk = program("wrk", "wrk")
    command = [*on_core(core), wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=10s"]
    answer = subprocess.run(
        [*command, "-s", str(script), f"http://127.0.0.1:{port}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + START_TIMEOUT,
    ).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", answer)
    if rate is None or "Non-2xx" in answer or "Socket errors" in answer:
        raise RuntimeError(answer)
    return float(rate[1])


def gets(
    folder: Path, name: str, ids: Sequence[bytes], count: int, path: str = "/v2/images/"
) -> Path:
    """A script for wrk that asks for ``count`` of these ids, drawn at random."""
    asked, script = folder / f"{name}.ids", folder / f"{name}.lua"
    asked.write_text("\n".join(text_id(raw) for raw in random.Random(5).choices(ids, k=count)))
    script.write_text(GET % {"file": asked, "path": path})
    return script


def redirected(port: int, text: str) -> str:
    """``<status> <Location>`` of the answer about an image."""
    url = f"http://127.0.0.1:{port}/v2/images/{text}"
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", url]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
