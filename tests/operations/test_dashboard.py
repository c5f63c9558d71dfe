"""The dashboard and the alerts in a real Prometheus that scrapes a real gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from resolver.models import format_id
from resolver.standin import StandIn
from tests.cli.test_serve import found, get, serve
from tests.conftest import started
from tests.operations.conftest import ROOT
from tests.operations.test_rules import RULES, alerts
from tests.support.ids import make_ids
from tests.support.metric_names import metric_types, named_metrics
from tests.support.prometheus import Prometheus
from tests.support.wait import wait_until

DASHBOARD = json.loads((ROOT / "config" / "grafana" / "dashboard.json").read_text("utf-8"))

VARIABLES = {"$__rate_interval": "10s", "$job": ".*", "$instance": ".*", "$location": ".*"}

WITHOUT_SERIES = {
    "glance_resolver_events_total",
    "glance_resolver_location_event_lag_seconds",
    "glance_resolver_problems",
    "glance_resolver_location_not_offered",
}
"""What a gateway without faults and notifications has not."""


def queries() -> Iterator[tuple[str, str]]:
    """The title of a panel and an expression of it."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def variable_queries() -> list[str]:
    variables = DASHBOARD["templating"]["list"]
    return [v["query"]["query"] for v in variables if v["type"] == "query"]


async def test_the_dashboard_names_metrics_that_exist() -> None:
    exposed = set(await metric_types())
    for title, expression in [*queries(), *(("variable", query) for query in variable_queries())]:
        assert named_metrics(expression) <= exposed, title


async def test_the_dashboard_shows_each_metric() -> None:
    shown = set().union(*(named_metrics(expression) for _, expression in queries()))
    exposed = {name for name in await metric_types() if name.startswith("glance_resolver_")}
    assert exposed == {name for name in shown if name.startswith("glance_resolver_")}


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)


def substituted(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def silent_panels(prometheus: Prometheus) -> list[tuple[str, str]]:
    """The queries without data, of metrics that a gateway without faults has."""
    return [
        (title, expression)
        for title, expression in queries()
        if not named_metrics(expression) & WITHOUT_SERIES
        and not prometheus.query(substituted(expression))
    ]


@pytest.mark.prometheus
async def test_queries_and_rules_find_a_real_gateway() -> None:
    unknown_id = format_id(make_ids(1)[0])
    async with (
        StandIn() as glance,
        serve("--location", f"one={glance.url}", RESOLVER_POLL_INTERVAL="1") as gateway,
    ):
        image = glance.add(name="a").id
        await wait_until(lambda: found(gateway, image))
        prometheus = await asyncio.to_thread(started, Prometheus(gateway.url, RULES))
        try:

            async def all_have_data() -> bool:
                for image_id in (image, unknown_id):  # a rate needs answers between two scrapes
                    await get(f"{gateway.url}/resolve/{image_id}")
                return not await asyncio.to_thread(silent_panels, prometheus)

            try:
                await wait_until(all_have_data)
            except AssertionError:
                assert silent_panels(prometheus) == []
                raise
            for _, expression in queries():
                prometheus.query(substituted(expression))  # those without series are valid, too
            groups = prometheus.get("rules")["groups"]
            rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
            assert set(rules) == set(alerts())
            states = {name: (rule["health"], rule["state"]) for name, rule in rules.items()}
            assert set(states.values()) == {("ok", "inactive")}, states
        finally:
            await asyncio.to_thread(prometheus.close)
