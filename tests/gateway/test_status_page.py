"""`GET /` for browsers: the status page as text. `tests/browser` looks at it with a browser."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import aiohttp
import pytest

from resolver.gateway.api.status_page import MAX_CLIENT_STREAMS, MAX_STREAMS
from resolver.gateway.page.markup import Html, element, join
from resolver.gateway.page.sections import MAX_PROBLEMS
from resolver.gateway.server import serving
from resolver.models import Progress, Sweep, format_id
from resolver.problems import Problem
from resolver.services import Services, open_services
from resolver.settings import Settings
from tests.gateway.conftest import Gateway, Start
from tests.support.ids import make_ids
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
EVIL = "<script>alert('1')</script>\"&"


async def page(gateway: Gateway, query: str = "", status: int = 200) -> str:
    response, _ = await gateway.get(f"/{query}", headers=BROWSER)
    assert response.status == status
    assert response.content_type == "text/html"
    text: str = await response.text()
    return text


def visible(html: str) -> str:
    """The text of markup, without its elements."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "*/*",
        "application/json",
        "application/json, text/plain, */*",
        "application/json, text/html",
        "image/png",
        "text/html;q=0.5, application/json",
    ],
)
async def test_others_than_browsers_get_the_versions_of_glance(
    gateway: Gateway, accept: str | None
) -> None:
    response, body = await gateway.get("/", headers={} if accept is None else {"Accept": accept})
    assert (response.status, response.headers["Vary"]) == (300, "Accept")
    assert "versions" in body


async def test_only_the_root_is_a_page(gateway: Gateway) -> None:
    for path in ("/versions", "/v2"):
        response, body = await gateway.get(path, headers=BROWSER)
        assert "versions" in body
        assert "Vary" not in response.headers


async def test_foreign_scripts_and_frames_are_forbidden(gateway: Gateway) -> None:
    response, _ = await gateway.get("/", headers=BROWSER)
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["Vary"] == "Accept, X-Auth-Token"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    text = await response.text()
    assert re.findall(r"(?:src|href)=\"(?:https?:)?//", text) == []
    assert re.findall(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", text) == []


async def test_the_files_of_the_page(gateway: Gateway) -> None:
    text = await page(gateway)
    urls = re.findall(r"(?:src|href)=\"(page/[^\"]+)\"", text)
    assert {url.partition("?")[0] for url in urls} == {
        "page/icon.svg",
        "page/status.css",
        "page/status.js",
    }
    for url in urls:
        response, _ = await gateway.get(f"/{url}")
        assert response.status == 200
        assert "max-age" in response.headers["Cache-Control"]
    response, body = await gateway.get("/page/other.js")
    assert (response.status, body["code"]) == (404, "not-found")


async def test_each_location_has_a_row(gateway: Gateway) -> None:
    await gateway.location("oslo", region="north", state="draining")
    number = await gateway.location("bergen")
    now = time.time()
    sweep = Sweep(
        started=now - 9, ended=now - 5, images=1234, sees_all=True, error="x", error_code="refused"
    )
    await gateway.services.index.records.set_sweep(number, sweep)
    text = await page(gateway)
    rows = dict(re.findall(r'<tr role="row" id="location-(\w+)">(.*?)</tr>', text))
    assert list(rows) == ["oslo", "bergen"] or list(rows) == ["bergen", "oslo"]
    assert visible(rows["oslo"]).startswith("oslo north draining up yes 0 ")
    assert visible(rows["oslo"]).endswith("none")
    bergen = visible(rows["bergen"])
    assert bergen.startswith("bergen active up ")
    assert "1,234" in bergen
    assert bergen.endswith("sweep-failing")
    assert "glance-resolver locations check bergen" in visible(text)
    assert 'href="#location-bergen"' in text


async def test_details_for_operators_are_not_shown(gateway: Gateway) -> None:
    await gateway.location("oslo", auth={"token_env": "OSLO_SECRET"}, reason="ask-kari")
    text = await page(gateway)
    assert "oslo.example" not in text
    assert "OSLO_SECRET" not in text
    assert "ask-kari" not in text


async def test_text_from_outside_is_escaped(gateway: Gateway) -> None:
    await gateway.location("oslo", region=EVIL)
    gateway.services.problems.add_source(
        lambda: [Problem(code="x", text=EVIL, action=f"{EVIL} `{EVIL}`", location="oslo")]
    )
    for query in ("", f"?id={EVIL.replace('&', '%26')}"):
        text = await page(gateway, query, 400 if query else 200)
        assert "<script>" not in text
        assert "&lt;script&gt;" in text


def test_only_markup_is_not_escaped() -> None:
    inner = element("b", EVIL, title=EVIL)
    assert isinstance(inner, Html)
    assert "<script" not in inner
    assert element("p", inner, "<") == f"<p>{inner}&lt;</p>"
    assert join([None, 0, "&"]) == "0&amp;"


async def test_the_answer_about_an_image_and_why(gateway: Gateway) -> None:
    (image,) = make_ids(1)
    await gateway.location("oslo")
    await gateway.location("bergen")
    await gateway.claim("oslo", format_id(image))
    text = await page(gateway, f"?id={format_id(image).upper()}")
    answer = visible(text.partition('id="answer"')[2].partition("</section>")[0])
    assert "found" in answer
    assert f"https://oslo.example:9292/v2/images/{format_id(image)}" in answer
    assert "oslo 1 chosen" in answer
    assert "bergen not an owner" in answer
    assert "Not an owner: 1" in answer


async def test_the_page_explains_what_is_no_id(gateway: Gateway) -> None:
    assert "is not an image id" in visible(await page(gateway, "?id=debian", 400))


async def test_a_question_costs_as_much_as_explain(start: Start) -> None:
    gateway = await start(client_rate=0.1)
    (image,) = make_ids(1)
    assert "unknown" in await page(gateway, f"?id={format_id(image)}")
    assert "RESOLVER_CLIENT_RATE" in await page(gateway, f"?id={format_id(image)}", 429)
    await page(gateway)  # without a question it costs nothing


async def test_a_sweep_under_way_has_its_rate(gateway: Gateway) -> None:
    number = await gateway.location("oslo")
    now = time.time()
    progress = Progress(started=now - 10, at=now, images=5000, front="80000000-…")
    await gateway.services.index.records.begin_progress(number, progress)
    text = visible((await page(gateway)).partition('id="sweeps"')[2])
    assert "oslo 5,000 500 50% " in text


async def test_conflicts_are_counted(gateway: Gateway) -> None:
    number = await gateway.location("oslo")
    now = time.time()
    sweep = Sweep(started=now, ended=now, sees_all=True, conflicts=3)
    await gateway.services.index.records.set_sweep(number, sweep)
    assert "oslo: 3 images" in visible(await page(gateway))


async def test_of_many_problems_some_are_shown(gateway: Gateway) -> None:
    await gateway.location("one")
    gateway.services.problems.add_source(
        lambda: [
            Problem(code="x", text="`url` is wrong.", action="Repair.", location=str(number))
            for number in range(MAX_PROBLEMS + 7)
        ]
    )
    text = await page(gateway)
    assert text.count("Repair.") == MAX_PROBLEMS
    assert text.count("<code>url</code> is wrong.") == MAX_PROBLEMS
    assert "7 more are in /status." in text


@pytest.mark.redis
async def test_the_page_is_served_without_redis(start: Start, own_redis: RedisServer) -> None:
    own_redis.kill()
    gateway = await start(redis_url=own_redis.url)
    assert "index-unavailable" in await page(gateway)


class Events:
    """The events of the page, as a browser gets them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.all: list[dict[str, Any]] = []

    async def read(self) -> None:
        async with self._gateway.http.get("/page/events") as response:
            assert response.content_type == "text/event-stream"
            async for line in response.content:
                if line.startswith(b"data: "):
                    self.all.append(json.loads(line[6:]))


async def test_events_have_what_has_changed(gateway: Gateway) -> None:
    await gateway.location("oslo")
    events = Events(gateway)
    reader = asyncio.create_task(events.read())
    await wait_until(lambda: events.all)
    assert events.all[0]["changed"].keys() == {
        "summary",
        "problems",
        "sweeps",
        "conflicts",
        "processes",
        "locations",
    }
    await gateway.services.registry.patch("oslo", {"state": "draining"})
    await wait_until(lambda: len(events.all) > 1)
    assert events.all[1]["changed"].keys() == {"location-oslo"}
    assert "draining" in events.all[1]["changed"]["location-oslo"]
    await gateway.services.registry.put("bergen", {"url": "https://bergen.example"})
    await wait_until(lambda: len(events.all) > 2)
    assert "location-bergen" in events.all[2]["changed"]["locations"]
    reader.cancel()


async def test_many_browsers_share_one_snapshot(
    gateway: Gateway, services_asked: list[float]
) -> None:
    everyone = [Events(gateway) for _ in range(20)]
    readers = [asyncio.create_task(events.read()) for events in everyone]
    await wait_until(lambda: all(events.all for events in everyone))
    assert len(services_asked) <= 2
    for reader in readers:
        reader.cancel()


@pytest.fixture
def services_asked(gateway: Gateway) -> list[float]:
    """When the problems of the gateway were asked for."""
    asked: list[float] = []

    def source() -> list[Problem]:
        asked.append(time.monotonic())
        return []

    gateway.services.problems.add_source(source)
    return asked


async def test_there_is_a_limit_of_browsers_that_follow(start: Start) -> None:
    gateway = await start(trusted_proxies="127.0.0.1")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def follow(client: int) -> aiohttp.ClientResponse:
            headers = {"X-Forwarded-For": f"192.0.2.{client}"}
            return await http.get(f"{gateway.url}/page/events", headers=headers)

        responses = [await follow(1) for _ in range(MAX_CLIENT_STREAMS)]
        refused = await follow(1)
        assert (refused.status, (await refused.json())["code"]) == (503, "busy")
        responses += [await follow(2 + n) for n in range(MAX_STREAMS - len(responses))]
        assert {response.status for response in responses} == {200}
        assert (await follow(250)).status == 503
        for response in responses:
            response.close()


async def test_a_stop_does_not_wait_for_browsers() -> None:
    settings = Settings(port=0, probe=False, shutdown_timeout=300)
    async with open_services(settings) as services, aiohttp.ClientSession() as http:
        async with serving(services) as url:
            response = await http.get(f"{url}/page/events")
            await response.content.readline()
            started = time.monotonic()
        assert time.monotonic() - started < 60
        await response.read()  # the stream has ended, and was not cut


async def many_locations(services: Services, count: int) -> None:
    await services.registry.register(
        {f"l{number:04}": {"url": f"https://l{number}.example"} for number in range(count)}
    )


@pytest.mark.redis
async def test_a_thousand_locations(start: Start, redis_url: str) -> None:
    """In less than 200 ms of an idle processor. While the rows are made, the event loop does other
    work."""
    gateway = await start(redis_url=redis_url)
    await many_locations(gateway.services, 1000)
    await page(gateway)
    longest = last = 0.0

    async def watch() -> None:
        nonlocal longest, last
        while True:
            await asyncio.sleep(0)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()

    await asyncio.sleep(1)  # the content is too old now, so that it is made again
    watcher = asyncio.create_task(watch())
    started, last = time.process_time(), time.monotonic()
    text = await page(gateway)
    seconds = time.process_time() - started
    watcher.cancel()
    assert text.count('id="location-') == 1000
    print(f"{seconds * 1000:.0f} ms, {len(text)} characters, longest turn {longest * 1000:.0f} ms")
    assert seconds < 1
