"""``POST /resolve`` with a thousand ids a request against nginx + Lua + Redis, one by one.

``python -m benchmarks.bulk`` takes two minutes with a million images in Redis, ``--small`` half a
minute. Each server has the first core to itself; wrk and Redis share the second. wrk drives both.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.common import (
    RedisServer,
    Rounds,
    arguments,
    batches,
    in_turns,
    machine,
    out,
    pin,
    processor,
    sorted_ids,
    steps,
    table,
    text_id,
)
from benchmarks.nginx import nginx
from benchmarks.serve import LOCATION, drive, fill, gateway, gets, redirected

OURS, PEER = "POST /resolve, 1,000 ids", "nginx + Lua + Redis, one by one"
NDJSON = "POST /resolve, 1,000 ids, NDJSON"
SERVER, DRIVER = 0, 1  # cores

BULK = 1000
BODY_BUDGET = 50
"""Different bodies that wrk sends in turn."""

SINGLES = 50_000
"""Different ids that wrk asks nginx for."""

IDS_AIM, RATIO_AIM = 200_000, 5.0

POST = """
local requests, at = {}, 0
function init(args)
  for body in io.lines("%(file)s") do
    requests[#requests + 1] = wrk.format("POST", "/resolve",
      {["Content-Type"] = "application/json", ["Accept"] = "%(accept)s"}, body)
  end
end
function request() at = at %% #requests + 1; return requests[at] end
"""


def check(port: int, peer: int, ids: Sequence[str]) -> None:
    """Raises RuntimeError unless both name the right server."""
    url = f"http://127.0.0.1:{port}/resolve"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(ids).encode())) as reply:
        found = [(row["id"], row["owners"][0]["location"]) for row in json.load(reply)]
    if found != [(one, "a") for one in ids]:
        raise RuntimeError(f"/resolve answered {found[:2]}")
    wanted = f"{LOCATION}/v2/images/{ids[0]}"
    if (answer := redirected(peer, ids[0])) != f"307 {wanted}":
        raise RuntimeError(f"nginx answered {answer}")


def scripts(folder: Path, ids: list[bytes]) -> dict[str, Path]:
    """What wrk runs for each contender."""
    asked = [text_id(raw) for raw in random.Random(5).choices(ids, k=BODY_BUDGET * BULK)]
    bodies = folder / "bodies"
    bodies.write_text("\n".join(json.dumps(some) for some in batches(asked, BULK)))
    made = {PEER: gets(folder, "one", ids, SINGLES)}
    for name, accept in ((OURS, "application/json"), (NDJSON, "application/x-ndjson")):
        made[name] = folder / f"{len(made)}.lua"
        made[name].write_text(POST % {"file": bodies, "accept": accept})
    return made


def compare(count: int, rounds: int, seconds: int) -> None:
    rates, work = Rounds(), Rounds()
    with (
        tempfile.TemporaryDirectory() as name,
        steps(1 + 3 * rounds) as step,
        RedisServer(DRIVER) as redis,
        gateway(redis.url, SERVER) as (port, ours),
        nginx(redis, Path(name), SERVER) as peer,
    ):
        step(f"{count:,} images")
        ids = sorted_ids(count)
        asyncio.run(fill(redis, ids))
        folder = Path(name)
        lua = scripts(folder, ids)
        check(port, peer.port, [text_id(raw) for raw in ids[:3]])

        def one(what: str, port: int, pid: int, connections: int, each: int) -> None:
            used = processor(pid)
            rate = drive(port, lua[what], DRIVER, connections, seconds) * each
            rates.add(what, rate)
            work.add(what, (processor(pid) - used) / (rate * seconds) * 1e6)

        contenders: list[tuple[str, Callable[[str], None]]] = [
            (OURS, lambda what: one(what, port, ours, 4, BULK)),
            (NDJSON, lambda what: one(what, port, ours, 4, BULK)),
            (PEER, lambda what: one(what, peer.port, peer.worker, 64, 1)),
        ]
        for number in range(rounds):
            for what, run in in_turns(contenders, number):
                step(f"{what}, round {number + 1}")
                run(what)
    show(count, rates, work)


def show(count: int, rates: Rounds, work: Rounds) -> None:
    made = table(
        f"Ids resolved a second by one process on one core, {count:,} images",
        *("", "ids/s: median (least - most)", "to nginx", "server's µs an id", "to nginx"),
    )
    for name in rates.names():
        made.add_row(
            name,
            rates.shown(name),
            f"{rates.ratio(name, PEER):.2f}",
            work.shown(name, ".1f"),
            f"{work.ratio(name, PEER):.2f}",
        )
    out.print(made)
    rate, ratio = rates.median(OURS), rates.ratio(OURS, PEER)
    for text, value, aim in (
        (f"{rate:,.0f} ids/s; aim of {IDS_AIM:,}", rate, IDS_AIM),
        (f"{ratio:.1f} times nginx; aim of {RATIO_AIM:g} times", ratio, RATIO_AIM),
    ):
        out.print(f"{text} {'met' if value >= aim else 'NOT met'}")


def main() -> None:
    options = arguments(__doc__, ("--images", 0, "images"), ("--rounds", 0, "rounds"))
    small = options.small
    out.print(f"benchmarks.bulk: {machine()}")
    pin(DRIVER)
    count = options.images or (50_000 if small else 1_000_000)
    compare(count, options.rounds or (3 if small else 5), 2 if small else 5)


if __name__ == "__main__":
    main()
