"""Monitoring: request ids, log lines, metrics, health, version documents and OpenAPI."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import openapi_spec_validator
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from resolver.gateway.api.status import openapi_document
from resolver.gateway.app import gateway_routes, make_app, monitoring_routes
from resolver.gateway.image_path import REGION_LABEL
from resolver.models import Check, Health
from tests.gateway.conftest import ADMIN, V1, V2, Gateway, Start
from tests.support.clouds import cloud_of
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
REQUEST_ID = "req-9e6a2f0e-54b5-4b05-ae8e-8a4c9a3c1f11"


@pytest.mark.parametrize(
    "path",
    ["/", "/versions", f"/v2/images/{ID}", f"/resolve/{ID}", "/locations", "/nowhere", "/metrics"],
)
async def test_every_answer_has_a_request_id(gateway: Gateway, path: str) -> None:
    response, _ = await gateway.get(path)
    assert re.fullmatch(
        r"req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        response.headers["X-Openstack-Request-Id"],
    )
    response, _ = await gateway.get(path, headers={"X-Openstack-Request-Id": REQUEST_ID})
    assert response.headers["X-Openstack-Request-Id"] == REQUEST_ID
    response, _ = await gateway.get(path, headers={"X-Openstack-Request-Id": "req-x"})
    assert response.headers["X-Openstack-Request-Id"] != "req-x"


async def test_each_request_has_one_log_line(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "access"):
        await gateway.get(f"/v2/images/{ID}", headers={"X-Openstack-Request-Id": REQUEST_ID})
    (record,) = [record for record in caplog.records if record.name == "access"]
    assert REQUEST_ID in record.getMessage()
    assert "unknown" in record.getMessage()


async def test_tokens_are_never_logged(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await gateway.call(
            "PUT", "/locations/one", headers=ADMIN, json={"url": "https://one.example"}
        )
        await gateway.get(f"/v2/images/{ID}", headers={"X-Auth-Token": "keystone-token"})
    assert "s3cret-token" not in caplog.text
    assert "keystone-token" not in caplog.text


async def test_unexpected_failures_show_no_internals(gateway: Gateway) -> None:
    async def fail(_: web.Request) -> web.Response:
        raise KeyError("internal")

    app = make_app(gateway.services)
    app.router.add_get("/fails", fail)
    async with TestClient(TestServer(app)) as client, client.get("/fails") as response:
        body = await response.json(content_type=None)
    assert (response.status, body["code"]) == (500, "internal-error")
    assert "Traceback" not in json.dumps(body)
    assert "KeyError" not in json.dumps(body)
    assert response.headers["X-Openstack-Request-Id"] in body["detail"]


async def test_health_endpoints_answer(gateway: Gateway) -> None:
    response, _ = await gateway.get("/healthcheck")
    assert (response.status, await response.text()) == (200, "OK")
    assert (await gateway.get("/livez"))[1]["live"] is True
    assert (await gateway.get("/readyz"))[1]["ready"] is True


async def test_an_indexer_has_only_the_paths_for_monitoring(start: Start) -> None:
    gateway = await start(role="indexer")
    response, problem = await gateway.get("/locations")
    assert (response.status, "ask a gateway" in problem["detail"]) == (404, True)
    assert (await gateway.get("/readyz"))[0].status == 200
    assert (await gateway.get("/metrics"))[0].status == 200
    assert (await gateway.get(f"/resolve/{ID}"))[0].status == 404


async def test_metrics_show_requests_answers_and_locations(start: Start) -> None:
    gateway = await start(role="all", health_interval=3600, sweep_interval=3600)
    await gateway.location("one", auth={"token_env": "T"})
    two = await gateway.location("two", covered=False)
    await gateway.get(f"/v2/images/{ID}")
    stats = gateway.services.indexer.stats
    await wait_until(lambda: stats.works_on(two), message="it is checked here")
    response, _ = await gateway.get("/metrics")
    text = await response.text()
    assert response.content_type == "text/plain"
    for line in (
        'glance_resolver_requests_total{method="GET",'
        'route="/{api}/images/{id}{rest}",status="503"} 1.0',
        'glance_resolver_answers_total{outcome="unknown"} 1.0',
        'glance_resolver_reads_total{source="index"} 1.0',
        'glance_resolver_reads_total{source="stale"} 0.0',
        'glance_resolver_location_up{location="one"} 1.0',
        'glance_resolver_location_covered{location="one"} 1.0',
        'glance_resolver_location_covered{location="two"} 0.0',
    ):
        assert line in text, text
    assert ID not in text  # a label per image would have no bound


async def test_metrics_show_the_latency_of_locations_and_redis(start: Start) -> None:
    gateway = await start(role="all", probe=True, health_interval=3600, sweep_interval=3600)
    stats = gateway.services.indexer.stats
    async with cloud_of(gateway.services) as cloud:
        await cloud.add("one")
        number = await gateway.location("two")
        await gateway.get(f"/v2/images/{ID}")
        await wait_until(lambda: stats.works_on(number), message="it is checked here")
        values = await metric_values(gateway)
    assert values['glance_resolver_probe_seconds_total{location="one"}'] > 0
    assert values["glance_resolver_probes_in_flight"] == 0
    assert values["glance_resolver_redis_seconds_count"] > 0
    assert values["glance_resolver_redis_failures_total"] == 0
    assert values['glance_resolver_location_last_sweep_seconds{location="two"}'] == pytest.approx(1)
    assert values['glance_resolver_indexers{state="live"}'] == 1


@pytest.mark.redis
async def test_metrics_count_what_redis_does_not_answer(
    start: Start, own_redis: RedisServer
) -> None:
    gateway = await start(redis_url=own_redis.url)
    own_redis.kill()
    await gateway.get(f"/v2/images/{ID}")
    assert (await metric_values(gateway))["glance_resolver_redis_failures_total"] > 0


async def metric_values(gateway: Gateway) -> dict[str, float]:
    """By name and labels."""
    response, _ = await gateway.get("/metrics")
    lines = (await response.text()).splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


async def test_a_process_that_checks_no_location_shows_no_metrics_of_locations(
    gateway: Gateway,
) -> None:
    await gateway.location("one")
    response, _ = await gateway.get("/metrics")
    assert "glance_resolver_location_up{" not in await response.text()


async def test_index_totals(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.location("two", covered=False)
    await gateway.claim("one", ID)
    await gateway.claim("two", ID)
    _, body = await gateway.get("/index")
    assert (body["images"], body["claims"], body["covered"], body["missing"]) == (
        1,
        2,
        False,
        ["two"],
    )
    assert body["locations"]["one"]["claims"] == 1
    assert body["locations"]["two"]["coverage"] == "not swept yet"


async def test_version_documents_name_this_gateway(gateway: Gateway) -> None:
    await gateway.location("one", versions=V2 + V1)
    await gateway.location("two", versions=("v2.9", "v2.0"))
    for path, status in (
        ("/", 300),
        ("/versions", 200),
        ("/v2", 200),
        ("/v2/", 200),
        ("/v1/", 200),
    ):
        response, body = await gateway.get(path)
        assert response.status == status
        ids = [version["id"] for version in body["versions"]]
        assert ids[0] == "v2.9"  # the latest that every location has
        assert ids[-1] == "v1.0"
        assert body["versions"][0]["status"] == "CURRENT"
        assert all(
            version["links"][0]["href"].startswith(gateway.url) for version in body["versions"]
        )


async def test_public_url_is_used_in_version_documents(start: Start) -> None:
    gateway = await start(public_url="https://images.example/glance/")
    _, body = await gateway.get("/versions")
    assert body["versions"][0]["links"][0]["href"] == "https://images.example/glance/v2/"


@pytest.mark.parametrize(
    "path",
    [
        "/v2/schemas/image",
        "/v2/schemas/metadefs/namespace?x=1",
        *(
            "/v2/info/import",
            "/v2/info/stores/detail",
            "/v2/info/usage",
            "/v2/tasks",
            "/v2/tasks/x",
        ),
        *("/v2/metadefs/namespaces?limit=2", "/v2/metadefs/resource_types", "/v2/cache"),
    ],
)
async def test_requests_for_any_location_go_to_a_healthy_one_with_v2(
    gateway: Gateway, path: str
) -> None:
    response, body = await gateway.get(path)
    assert (response.status, body["code"]) == (503, "no-location")
    await gateway.location("old", versions=V1, priority=1)
    await gateway.location("off", state="maintenance", priority=1)
    await gateway.location("new", priority=9, region="south")
    down = await gateway.location("down", priority=2, region="north")
    check = Check(at=time.time(), health=Health.DOWN, versions=V2)
    await gateway.services.index.records.set_check(down, check)
    for method in ("GET", "HEAD"):
        for headers in ({}, {"X-Resolver-Region": "north"}):
            response, _ = await gateway.call(method, path, headers=headers)
            assert response.status == 307
            assert response.headers["Location"] == f"https://new.example:9292{path}"
    await gateway.location("up", priority=99, region="north")
    response, _ = await gateway.get(path, headers={"X-Resolver-Region": "north"})
    assert response.headers["Location"] == f"https://up.example:9292{path}"
    await gateway.services.registry.remove("new")
    await gateway.services.registry.remove("up")
    response, _ = await gateway.get(path)
    assert response.headers["Location"] == f"https://down.example:9292{path}"


async def test_listings_of_v1_are_refused(gateway: Gateway) -> None:
    for path in ("/v1/images/detail", "/v1/images?name=x"):
        response, body = await gateway.get(path)
        assert (response.status, body["code"]) == (404, "no-listing")


async def test_unknown_paths_and_methods(gateway: Gateway) -> None:
    response, body = await gateway.get("/nowhere")
    assert (response.status, body["code"]) == (404, "not-found")
    response, body = await gateway.call("DELETE", "/resolve")
    assert (response.status, body["code"]) == (405, "method-not-allowed")
    assert response.headers["Allow"] == "GET, POST"


async def test_methods_without_a_route_share_one_label(gateway: Gateway) -> None:
    """A client could otherwise make a series of metrics with each method that it invents."""
    for method in ("PROPFIND", "MKCOL", "UNLINK"):
        assert (await gateway.call(method, "/resolve"))[0].status == 405
    response, _ = await gateway.get("/metrics")
    text = await response.text()
    counts = re.findall(r'requests_total\{method="other",.*status="405"\} (\S+)', text)
    assert counts == ["3.0"]
    assert not re.search("PROPFIND|MKCOL|UNLINK", text)


NOT_DESCRIBED = {
    ("get", "/{api}/"),  # as without the slash
    ("get", "/v1/images"),  # v1 has no merged listing
    ("get", "/v1/images/detail"),
}
"""A linter of API documents wants none of these."""


def without_region(path: str) -> str:
    """The path that a path of a region stands for; the document says once that there are these."""
    return path.removeprefix(REGION_LABEL) or path


def test_openapi_is_valid_and_describes_all_routes() -> None:
    document = openapi_document()
    openapi_spec_validator.validate(document)
    app = web.Application()
    app.add_routes([*monitoring_routes(), *gateway_routes()])
    routes = {
        (route.method.lower(), without_region(route.resource.canonical))
        for route in app.router.routes()
        if route.resource is not None and route.method not in ("HEAD", "*")
    } - NOT_DESCRIBED
    writes = {"post", "put", "patch", "delete"}
    routes |= {
        (method, without_region(route.resource.canonical))
        for route in app.router.routes()
        if route.resource is not None and route.method == "*"
        for method in writes
    }

    def route_of(method: str, path: str) -> tuple[str, str]:
        """Of a path that the document splits: with and without more segments."""
        spellings = (path, path.replace("/{rest}", "{rest}"), f"{path}{{rest}}")
        return next(
            ((method, each) for each in spellings if (method, each) in routes), (method, path)
        )

    described = {
        route_of(method, path)
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert described == routes


def operations() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, item in openapi_document()["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    ]


def test_generated_clients_have_a_function_for_each_operation() -> None:
    """Those of openapi-python-client and openapi-generator are named by the operation's id. The
    former leaves out an operation whose array has no items, or that takes plain text only."""
    ids = [operation.get("operationId") for _, operation in operations()]
    assert None not in ids
    assert len(set(ids)) == len(ids)
    for name, operation in operations():
        accepted = operation.get("requestBody", {}).get("content", {"application/json": {}})
        assert {"application/json", "application/octet-stream"} & accepted.keys(), name
    assert [
        schema for schema in _schemas(openapi_document(), "array") if "items" not in schema
    ] == []


def test_members_that_are_required_are_described() -> None:
    """Clients of openapi-generator have no member that only `required` names."""
    required = [
        (name, schema)
        for schema in _schemas(openapi_document(), "object")
        for name in schema.get("required", ())
    ]
    assert len(required) > 100
    assert [name for name, schema in required if name not in schema.get("properties", {})] == []


def _schemas(node: Any, kind: str) -> Iterator[dict[str, Any]]:
    """All schemas of arrays or objects in a document."""
    if isinstance(node, dict) and node.get("type") in (kind, [kind, "null"]):
        yield node
    for child in (
        node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    ):
        yield from _schemas(child, kind)


async def test_openapi_names_the_server(start: Start) -> None:
    for url, shown in (("", "/"), ("https://cloud.example/resolver", None)):
        gateway = await start(public_url=url)
        _, body = await gateway.get("/openapi.json")
        assert [server["url"] for server in body["servers"]] == [shown or url]


async def test_openapi_is_read_once_and_then_needs_no_thread(gateway: Gateway) -> None:
    _, first = await gateway.get("/openapi.json")
    await asyncio.get_running_loop().shutdown_default_executor()
    response, body = await gateway.get("/openapi.json")
    assert (response.status, body) == (200, first)


async def test_openapi_is_served(gateway: Gateway) -> None:
    response, body = await gateway.get("/openapi.json")
    assert response.status == 200
    assert body["paths"].keys() == openapi_document()["paths"].keys()
