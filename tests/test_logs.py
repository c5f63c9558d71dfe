"""Log lines as processes write them."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import asyncio
from resolver import logs

logs.configure(level="LEVEL", form="FORM")
quick, logs.requests.quick = logs.requests.quick, False

async def both():
    for logs.requests.quick in (False, quick):
        for path in ("/a", "/\\u00e9\\n"):
            logs.requests.note(request_id="req-1", path=path, status=307, outcome={"found": 2})
    await asyncio.sleep(0)

asyncio.run(both())
"""


def lines(level: str, form: str) -> list[str]:
    script = SCRIPT.replace("LEVEL", level).replace("FORM", form)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stderr.splitlines()


def test_a_requests_line_is_the_same_made_quickly() -> None:
    slow, slow2, quick, quick2 = map(json.loads, lines("info", "json"))
    for one in (slow, slow2, quick, quick2):
        assert len(one.pop("timestamp")) == len("2026-11-23T15:38:35.689340Z")
    assert (slow, slow2) == (quick, quick2)
    assert list(slow) == list(quick)
    assert slow["event"] == "request"


def test_requests_are_not_logged_above_their_level() -> None:
    assert lines("warning", "json") == []


def test_people_read_text() -> None:
    said = lines("info", "text")
    assert len(said) == 4
    assert all("request" in line and "status=307" in line for line in said)
