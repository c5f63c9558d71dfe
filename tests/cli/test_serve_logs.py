"""What `serve` writes to standard error."""

from __future__ import annotations

import asyncio
import json
import signal

from resolver.standin import StandIn
from tests.cli.test_serve import Server, found, get, run, serve
from tests.support.wait import wait_until


def requests(server: Server) -> list[str]:
    rows = [json.loads(line) for line in server.lines if line.startswith("{")]
    return [row["path"] for row in rows if row["event"] == "request"]


async def test_in_json_format_every_line_is_json() -> None:
    async with StandIn() as one:
        image = one.add(name="a").id
        async with serve("--location", f"one={one.url}", RESOLVER_LOG_FORMAT="json") as server:
            await wait_until(lambda: found(server, image))
            await get(f"{server.url}/nowhere")
            server.process.send_signal(signal.SIGHUP)
            await wait_until(lambda: "settings read again" in server.output)
            server.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                await server.process.wait()
            await wait_until(lambda: "stopping" in server.output)
            rows = [json.loads(line) for line in server.lines]
    assert {"event", "level", "logger", "timestamp"} <= set.intersection(*map(set, rows))
    begin = [row["event"] for row in rows if row["logger"] == "serve"]
    assert [event.split()[0] for event in begin] == ["admin", "glance-resolver", "glance-resolver:"]


async def test_a_start_that_fails_is_a_line_of_json_too() -> None:
    status, _, err = await run("serve", "--host", "203.0.113.1", RESOLVER_LOG_FORMAT="json")
    assert status == 1
    rows = [json.loads(line) for line in err.splitlines()]
    assert (rows[-1]["level"], "cannot listen on" in rows[-1]["event"]) == ("error", True)


async def test_in_text_format_lines_are_plain_text() -> None:
    async with serve(RESOLVER_LOG_FORMAT="text") as server:
        assert f"glance-resolver (all) listens at {server.url} (pid {server.process.pid})\n" in (
            server.lines
        )


async def test_health_checks_are_left_out_by_default() -> None:
    async with serve() as server:
        for path in ("/healthcheck", "/livez", "/readyz", "/metrics", "/versions", "/nowhere"):
            await get(f"{server.url}{path}")
        await wait_until(lambda: "/nowhere" in requests(server))
        assert requests(server) == ["/versions", "/nowhere"]
