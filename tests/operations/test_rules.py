"""The alerts of `config/prometheus/rules.yml`: each fires on its fault, alone, and not before."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.operations.conftest import ROOT, RunTool
from tests.support.metric_names import metric_types, named_metrics
from tests.test_documents import anchors

RULES = ROOT / "config" / "prometheus" / "rules.yml"

ONE, TWO, INDEXER, OTHER_INDEXER = (
    f'{{job="glance-resolver",instance="{name}"' for name in ("g1", "g2", "i1", "i2")
)
"""The labels of two gateways and two indexers, without the closing brace."""

STEADY = "+0x200"
"""A value that stays for 200 minutes."""


def healthy() -> dict[str, str]:
    """What Prometheus has of two gateways and one indexer without faults, a value a minute."""
    series = {}
    for process in (ONE, TWO, INDEXER):
        for name, value in {
            "up": 1,
            "glance_resolver_connections": 100,
            "glance_resolver_connections_max": 1000,
            "glance_resolver_requests_in_flight": 10,
            "glance_resolver_without_index": 0,
            "glance_resolver_without_indexer": 0,
            "glance_resolver_without_tracking": 0,
            "glance_resolver_redis_may_evict": 0,
            "glance_resolver_checker_suspects_itself": 0,
            "glance_resolver_indexer_last_tick_timestamp_seconds": 0,
        }.items():
            series[f"{name}{process}}}"] = f"{value}{STEADY}"
        series[f'glance_resolver_build_info{process},version="1"}}'] = f"1{STEADY}"
    for location in ("a", "b"):
        for name, values in {
            "up": f"1{STEADY}",
            "covered": f"1{STEADY}",
            "sweep_failing": f"0{STEADY}",
            "last_sweep_timestamp_seconds": "0+60x200",
        }.items():
            key = f'glance_resolver_location_{name}{INDEXER},location="{location}"}}'
            series[key] = values
    tick = f"glance_resolver_indexer_last_tick_timestamp_seconds{INDEXER}}}"
    series[tick] = "0+60x200"
    for process in (ONE, TWO):
        series[requests(process, "307")] = "0+6000x200"
        series[requests(process, "503")] = "0+60x200"
        series[f'glance_resolver_requests_total{process},route="/readyz",status="503"}}'] = (
            "0+6000x200"
        )
        for bound, step in {"0.01": 5900, "1.0": 6000, "2.5": 6000, "+Inf": 6000}.items():
            series[bucket(process, bound)] = f"0+{step}x200"
        for outcome, step in {"found": 6000, "absent": 600, "unknown": 60}.items():
            series[f'glance_resolver_answers_total{process},outcome="{outcome}"}}'] = (
                f"0+{step}x200"
            )
        for source, step in {"cache": 6000, "index": 600, "probe": 60, "stale": 0}.items():
            series[reads(process, source)] = f"0+{step}x200"
    return series


def requests(process: str, status: str) -> str:
    route = "/{api}/images/{id}{rest}"
    return f'glance_resolver_requests_total{process},route="{route}",status="{status}"}}'


def bucket(process: str, bound: str) -> str:
    route = "/{api}/images/{id}{rest}"
    return f'glance_resolver_request_seconds_bucket{process},route="{route}",le="{bound}"}}'


def reads(process: str, source: str) -> str:
    return f'glance_resolver_reads_total{process},source="{source}"}}'


def everywhere(name: str, values: str, *labels: str) -> dict[str, str]:
    """The same series of both gateways and the indexer."""
    return {f"{','.join([f'{name}{p}', *labels])}}}": values for p in (ONE, TWO, INDEXER)}


class Fault(NamedTuple):
    """Series that differ from `healthy`, and when the alert fires, in minutes."""

    series: dict[str, str]
    quiet_at: int
    firing_at: int


A = 'location="a"'


def of_location(name: str, values: str, indexer: str = INDEXER) -> dict[str, str]:
    """A series of location a at the indexer that checks it."""
    return {f"glance_resolver_location_{name}{indexer},{A}}}": values}


FAULTS = {
    "GlanceResolverDown": Fault({f"up{ONE}}}": "1x20 0x20"}, 21, 23),
    "GlanceResolverAbsent": Fault(
        everywhere("glance_resolver_build_info", "1x20 stale _x20", 'version="1"'), 25, 27
    ),
    "GlanceResolverNoIndexer": Fault(
        {f"glance_resolver_without_indexer{TWO}}}": "0x20 1x20"}, 21, 23
    ),
    "GlanceResolverIndexerStalled": Fault(
        {f"glance_resolver_indexer_last_tick_timestamp_seconds{INDEXER}}}": "0+60x20 1200x20"},
        21,
        24,
    ),
    "GlanceResolverDefect": Fault({requests(TWO, "500"): "_x20 1x20"}, 19, 21),
    "GlanceResolverWithoutRedis": Fault(
        {f"glance_resolver_without_index{ONE}}}": "0x20 1x9"}, 21, 23
    ),
    "GlanceResolverRedisRefusesCommands": Fault(
        {f'glance_resolver_problems{ONE},code="redis-errors"}}': "_x20 1x20"}, 20, 23
    ),
    "GlanceResolverRedisMayEvict": Fault(
        everywhere("glance_resolver_redis_may_evict", "0x20 1x20"), 25, 27
    ),
    "GlanceResolverWithoutTracking": Fault(
        {f"glance_resolver_without_tracking{ONE}}}": "0x20 1x20"}, 25, 27
    ),
    "GlanceResolverLocationDown": Fault(
        # It moves to another indexer, and for a minute nobody shows it.
        of_location("up", "1x20 0x4 stale") | of_location("up", "_x27 0x20", OTHER_INDEXER),
        21,
        26,
    ),
    "GlanceResolverLocationNotOffered": Fault(of_location("not_offered", "_x20 1x20"), 20, 22),
    "GlanceResolverLocationNotCovered": Fault(of_location("covered", "1x20 0x40"), 35, 37),
    "GlanceResolverSweepFailing": Fault(of_location("sweep_failing", "0x20 1x40"), 35, 37),
    "GlanceResolverSweepOld": Fault(of_location("last_sweep_timestamp_seconds", "0x150"), 119, 122),
    "GlanceResolverCheckerSuspectsItself": Fault(
        {f"glance_resolver_checker_suspects_itself{INDEXER}}}": "0x20 1x20"}, 22, 24
    ),
    "GlanceResolverStaleAnswers": Fault({reads(ONE, "stale"): "0x20 0+60x20"}, 25, 28),
    "GlanceResolverUnknownAnswers": Fault(
        {f'glance_resolver_answers_total{ONE},outcome="unknown"}}': "0+60x20 1200+6000x40"}, 29, 35
    ),
    "GlanceResolverErrors": Fault({requests(ONE, "502"): "0x20 0+6000x20"}, 24, 30),
    "GlanceResolverSlow": Fault(
        {bucket(ONE, "1.0"): "0+6000x20 120000+5000x40", bucket(ONE, "0.01"): "0+5000x60"}, 29, 36
    ),
    "GlanceResolverSaturated": Fault(
        {f"glance_resolver_connections{ONE}}}": "100x20 900x20"}, 25, 27
    ),
    "GlanceResolverConnectionsEvicted": Fault(
        {f'glance_resolver_connections_cut_total{ONE},reason="room"}}': "0x20 0+9x20"}, 25, 28
    ),
    "GlanceResolverClientsLimited": Fault({requests(ONE, "429"): "0x20 0+9x40"}, 30, 33),
    "GlanceResolverLoginsRefused": Fault(
        {f"glance_resolver_logins_refused_total{ONE}}}": "0x20 0+60x40"}, 25, 28
    ),
    "GlanceResolverProblem": Fault(
        everywhere("glance_resolver_problems", "_x20 1x40", 'code="version-skew"'), 34, 36
    ),
}


def alerts() -> dict[str, dict[str, Any]]:
    """The rules by the name of their alert."""
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


async def test_rules_name_metrics_that_exist() -> None:
    series = "\n".join([*healthy(), *(key for fault in FAULTS.values() for key in fault.series)])
    exposed = set(await metric_types())
    assert named_metrics(RULES.read_text("utf-8")) <= exposed
    assert named_metrics(series) <= exposed


def test_each_alert_says_what_to_do() -> None:
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), name
        assert set(rule["annotations"]) == {"summary", "action", "docs"}, name
        page, _, anchor = rule["annotations"]["docs"].partition("#")
        text = (ROOT / page).read_text("utf-8")
        assert not anchor or anchor in anchors(text), rule["annotations"]["docs"]
    rows = re.findall(r"^\| `(GlanceResolver\w+)` \|", (ROOT / "docs/metrics.md").read_text(), re.M)
    assert rows == list(alerts()), "the table of docs/metrics.md"


@pytest.mark.prometheus
def test_promtool_accepts_the_rules(run_tool: RunTool) -> None:
    run_tool("promtool", "prometheus", "check", "rules", RULES)


@pytest.mark.prometheus
def test_each_alert_fires_on_its_fault_alone(tmp_path: Path, run_tool: RunTool) -> None:
    assert set(FAULTS) == set(alerts())
    tests = [scenario({}, {5: set(), 120: set(), 199: set()})]
    for name, fault in FAULTS.items():
        tests.append(scenario(fault.series, {fault.quiet_at: set(), fault.firing_at: {name}}))
    file = tmp_path / "rules_test.yml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests})
    )
    run_tool("promtool", "prometheus", "test", "rules", file)


def scenario(series: dict[str, str], firing_at: dict[int, set[str]]) -> dict[str, Any]:
    """A test of promtool: which alerts fire, by minute."""
    return {
        "interval": "1m",
        "input_series": [
            {"series": key, "values": values} for key, values in (healthy() | series).items()
        ],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"}) > 0',
                "eval_time": f"{minute}m",
                "exp_samples": [
                    {"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)
                ],
            }
            for minute, firing in firing_at.items()
        ],
    }
