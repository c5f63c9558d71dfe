"""The box of the status page in Chromium: names are looked up with a token that is typed in."""

from __future__ import annotations

import pytest

from tests.browser.test_status_page import NARROW, take, violations
from tests.gateway.conftest import Gateway, cloud, gateway
from tests.gateway.test_image_lookup import IDS, images
from tests.support.chromium import Tab
from tests.support.clouds import Cloud
from tests.support.wait import wait_until

__all__ = ["cloud", "gateway", "images"]

pytestmark = pytest.mark.browser

ANSWERS = "(document.getElementById('answers')?.innerText ?? '')"
"""Also of a page that is not read to its end yet."""


async def test_images_are_looked_up_with_the_users_token(
    gateway: Gateway, images: Cloud, tab: Tab, axe: str
) -> None:
    await images.add("north", fields={"domain": "north", "region": "North"})
    await tab.resize(*NARROW)
    await tab.open(gateway.url)
    await tab.run("document.getElementById('region').value = 'R-one'")
    await tab.type("#user-token", "demo")
    await tab.type("#image", "debian")
    await tab.press_enter()
    await wait_until(lambda: tab.run(f"{ANSWERS}.includes('{IDS[1]}')"))
    assert await violations(tab, axe) == []
    assert await tab.run("document.documentElement.scrollWidth") <= NARROW[0]
    await take(tab, "matches-narrow.png")
    assert await tab.run("location.search") == ""
    await tab.run(f"document.querySelector('#answers a[href*=\"{IDS[1]}\"]').click()")
    await wait_until(lambda: tab.run(f"{ANSWERS}.includes('chosen')"))
    assert await tab.run("location.search") == ""
    assert tab.console == []


async def test_without_a_token_the_page_says_how(
    gateway: Gateway, images: Cloud, tab: Tab, axe: str
) -> None:
    await tab.open(gateway.url)
    await tab.type("#image", "debian")
    await tab.press_enter()
    await wait_until(lambda: tab.run(f"{ANSWERS}.includes('OS_TOKEN')"))
    assert await tab.run("location.search") == "?image=debian"
    assert await violations(tab, axe) == []
