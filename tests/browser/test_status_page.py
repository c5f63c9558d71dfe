"""The status page in Chromium: dark and light, wide and narrow, with and without its script, and
what axe finds.

``SCREENSHOTS=docs/images pytest tests/browser`` takes the pictures in the documentation.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from resolver.models import Check, Health, Progress, Sweep, format_id
from resolver.problems import Problem
from tests.conftest import started
from tests.gateway.conftest import TOKEN, Gateway, Start
from tests.support.balancers import Nginx
from tests.support.chromium import Tab
from tests.support.ids import make_ids
from tests.support.wait import wait_until

pytestmark = pytest.mark.browser

LONG_NAME = "a-location-with-a-name-that-is-as-long-as-it-may-be"
WIDE, NARROW = (1000, 900), (320, 700)
(IMAGE,) = make_ids(1)


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    """With all that the page can show."""
    gateway = await start()
    now = time.time()
    for name, region, images in (
        ("frankfurt", "Frankfurt", 48112),
        ("oslo", "Oslo", 20311),
        ("bergen", "Bergen", 7),
    ):
        number = await gateway.location(name, region=region)
        sweep = Sweep(started=now - 92, ended=now - 80, images=images, sees_all=True)
        await gateway.services.index.records.set_sweep(number, sweep)
        await gateway.claim(name, format_id(IMAGE))
    progress = Progress(started=now - 10, at=now, images=20000, front="60000000-…")
    await gateway.services.index.records.begin_progress(number, progress)
    await gateway.services.registry.patch(
        "bergen", {"state": "maintenance", "reason": "new disks until nine"}
    )
    number = await gateway.location("lab", region="Lab", covered=False)
    failed = Sweep(error="it answers 401", error_code="unauthorized", failed=now - 30, conflicts=2)
    await gateway.services.index.records.set_sweep(number, failed)
    await gateway.services.index.records.set_check(
        number, Check(at=now, health=Health.DOWN, failures=5, versions=("v2.15",))
    )
    return gateway


async def violations(tab: Tab, axe: str) -> list[Any]:
    await tab.run(axe)
    found = await tab.run("axe.run().then(r => JSON.stringify(r.violations))")
    return [
        (violation["id"], [node["html"] for node in violation["nodes"]])
        for violation in json.loads(found)
    ]


async def take(tab: Tab, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        picture = await tab.screenshot()
        await asyncio.to_thread(Path(folder, name).write_bytes, picture)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
async def test_the_page_is_accessible_in_each_theme_and_width(
    gateway: Gateway, tab: Tab, axe: str, theme: str, size: tuple[int, int]
) -> None:
    await tab.resize(*size)
    await tab.use_theme(theme)
    await tab.open(gateway.url)
    await wait_until(lambda: tab.run("document.getElementById('live').textContent === 'Live.'"))
    assert await violations(tab, axe) == []
    assert await tab.run("document.documentElement.scrollWidth") <= size[0]
    await take(tab, f"status-{theme}-{'wide' if size == WIDE else 'narrow'}.png")
    await gateway.location(LONG_NAME)
    await tab.open(f"{gateway.url}/?id={format_id(IMAGE)}")
    assert await violations(tab, axe) == []
    assert await tab.run("document.documentElement.scrollWidth") <= size[0]
    assert tab.console == []


async def test_the_page_can_be_read_without_its_script(gateway: Gateway, tab: Tab) -> None:
    await tab.disable_scripts()
    await tab.open(gateway.url)
    text = await tab.run("document.body.innerText")
    for shown in ("frankfurt", "48,112", "sweep-failing", "UTC", "As of when this page was loaded"):
        assert shown in text
    await tab.type("#image", format_id(IMAGE))
    await tab.press_enter()
    await wait_until(lambda: tab.run("Boolean(document.getElementById('answer'))"))
    assert "chosen" in await tab.run("document.getElementById('answer').innerText")
    assert tab.console == []


async def test_changes_appear_without_a_reload(gateway: Gateway, tab: Tab) -> None:
    await tab.open(gateway.url)
    await wait_until(lambda: tab.run("document.getElementById('live').textContent === 'Live.'"))
    state = "document.querySelector('#location-oslo td').textContent"
    assert await tab.run(state) == "active"
    await gateway.services.registry.patch("oslo", {"state": "draining"})
    await wait_until(lambda: tab.run(f"{state} === 'draining'"))
    await gateway.services.registry.put("new", {"url": "https://new.example"})
    await wait_until(lambda: tab.run("Boolean(document.getElementById('location-new'))"))
    ages = await tab.run("[...document.querySelectorAll('#locations time')].map(t => t.innerText)")
    assert ages
    assert all(age.endswith(" ago") for age in ages)
    assert tab.console == []


async def test_text_from_outside_is_not_interpreted_as_markup(gateway: Gateway, tab: Tab) -> None:
    """Also where the script writes it."""
    evil = "<img src=x onerror=alert(1)>"
    await tab.open(gateway.url)
    await gateway.services.registry.patch("oslo", {"region": evil})
    gateway.services.problems.add_source(lambda: [Problem(code="x", text=evil, action=f"`{evil}`")])
    await wait_until(lambda: tab.run("document.querySelector('main').innerText.includes('<img')"))
    await gateway.services.registry.patch("bergen", {"region": evil})
    row = "document.getElementById('location-bergen').innerText"
    await wait_until(lambda: tab.run(f"{row}.includes('<img')"))
    assert await tab.run("document.images.length") == 0
    assert tab.console == []


async def test_the_last_changes_need_a_token(gateway: Gateway, tab: Tab, axe: str) -> None:
    await gateway.services.registry.patch("oslo", {"reason": "<b>kari</b>"}, by="ops")
    await tab.open(gateway.url)
    changes = "document.getElementById('changes').innerText"
    await tab.type("#token", "wrong-token")
    await tab.press_enter()
    await wait_until(lambda: tab.run(f"{changes}.includes('RESOLVER_ADMIN_TOKENS')"))
    await tab.run("document.getElementById('token').value = ''")
    await tab.type("#token", TOKEN)
    await tab.press_enter()
    await wait_until(lambda: tab.run(f"{changes}.includes('<b>kari</b>')"))
    assert await tab.run("document.getElementById('token').value") == ""
    assert await violations(tab, axe) == []
    await tab.resize(*NARROW)
    assert await violations(tab, axe) == []
    assert await tab.run("document.documentElement.scrollWidth") <= NARROW[0]


class PrefixedNginx(Nginx):
    """Has the gateway below a path of its own."""

    def config(self) -> str:
        config = super().config().replace("location / {", f"location {PREFIX} {{")
        return config.replace("proxy_pass http://gateway;", "proxy_pass http://gateway/;")


PREFIX = "/image-resolver/"


@pytest.mark.balancer
async def test_behind_a_proxy_with_a_path_prefix(gateway: Gateway, tab: Tab) -> None:
    nginx = started(PrefixedNginx(int(gateway.url.rpartition(":")[2])))
    try:
        await tab.open(f"http://127.0.0.1:{nginx.port}{PREFIX}")
        await wait_until(lambda: tab.run("document.getElementById('live').textContent === 'Live.'"))
        await gateway.services.registry.patch("oslo", {"state": "draining"})
        state = "document.querySelector('#location-oslo td').textContent"
        await wait_until(lambda: tab.run(f"{state} === 'draining'"))
        await tab.type("#image", format_id(IMAGE))
        await tab.press_enter()
        await wait_until(lambda: tab.run("Boolean(document.getElementById('answer'))"))
        assert await tab.run("location.pathname") == PREFIX
        assert tab.console == []
    finally:
        nginx.close()
