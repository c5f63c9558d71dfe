"""Log lines as processes write them."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import asyncio
from resolver import logs

logs.configure(level="LEVEL", log_format="FORMAT")
by_structlog = logs.RequestLog(json_lines=False)

async def write_both_ways():
    for write in (by_structlog.write, logs.log_request):
        for path in ("/a", "/\\u00e9\\n"):
            write(request_id="req-1", path=path, status=307, outcome={"found": 2})
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
    slow, slow2, fast, fast2 = map(json.loads, written_lines("info", "json"))
    for line in (slow, slow2, fast, fast2):
        assert len(line.pop("timestamp")) == len("2026-11-23T15:38:35.689340Z")
    assert (slow, slow2) == (fast, fast2)
    assert list(slow) == list(fast)
    assert slow["event"] == "request"


def test_requests_are_not_logged_above_their_level() -> None:
    assert written_lines("warning", "json") == []


def test_text_format() -> None:
    lines = written_lines("info", "text")
    assert len(lines) == 4
    assert all("request" in line and "status=307" in line for line in lines)
