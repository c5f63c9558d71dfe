"""Log lines as processes write them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import datetime

SCRIPT = """
import asyncio
from resolver import logs

logs.configure(level="LEVEL", log_format="FORMAT")
by_structlog = logs.RequestLog(json_lines=False)

async def write_both_ways():
    for write in (by_structlog.write, logs.request_log().write):
        for path, client in (("/a?b=%20", "::1"), ("/\\u00e9\\n", None), ('/"\\\\', None)):
            for outcome in ("found", "", {"found": 2}):
                write("req-1", "GET", path, 307, 0.25, client, outcome)
    await asyncio.sleep(0)

asyncio.run(write_both_ways())
"""


def written_lines(level: str, log_format: str) -> list[str]:
    script = SCRIPT.replace("LEVEL", level).replace("FORMAT", log_format)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stderr.splitlines()


def test_the_fast_request_line_equals_structlogs() -> None:
    lines = [json.loads(line) for line in written_lines("info", "json")]
    for line in lines:
        assert abs(datetime.fromisoformat(line.pop("timestamp")).timestamp() - time.time()) < 60
    slow, fast = lines[:9], lines[9:]
    assert slow == fast
    assert [list(line) for line in slow] == [list(line) for line in fast]
    assert {line["event"] for line in slow} == {"request"}


def test_requests_are_not_logged_above_their_level() -> None:
    assert written_lines("warning", "json") == []


def test_a_request_that_is_not_logged_costs_two_calls() -> None:
    script = """
import sys
from resolver import logs
from resolver.gateway.access_log import AccessLog

logs.configure(level="warning", log_format="json")
access_log, calls = AccessLog("all"), []
sys.setprofile(lambda frame, event, _: event == "call" and calls.append(frame.f_code.co_qualname))
access_log.write("req-1", "GET", "/v2/images", 307, 0.25, "::1", "found")
sys.setprofile(None)
print(*calls)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.split() == ["AccessLog.write", "request_log"]
    assert not done.stderr


def test_text_format() -> None:
    lines = written_lines("info", "text")
    assert len(lines) == 18
    assert all("request" in line and "status=307" in line for line in lines)
