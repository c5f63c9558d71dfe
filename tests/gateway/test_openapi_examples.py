"""The examples in ``/openapi.json`` are requests that the gateway accepts, and its own answers."""

from __future__ import annotations

from typing import Any

import pytest

from resolver.gateway.api.status import openapi_document
from tests.gateway.conftest import ADMIN, Gateway

DOCUMENT = openapi_document()
ID = DOCUMENT["components"]["parameters"]["id"]["example"]

BODIES = [
    (method, path, content["application/json"]["example"])
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if method != "parameters"
    for content in [operation.get("requestBody", {}).get("content", {})]
    if "example" in content.get("application/json", {})
]


@pytest.mark.parametrize(("method", "path", "body"), BODIES)
async def test_an_example_of_a_request_is_accepted(
    gateway: Gateway, method: str, path: str, body: Any
) -> None:
    await gateway.location("frankfurt")
    target = path.replace("{name}", "frankfurt")
    response, answer = await gateway.call(method.upper(), target, json=body, headers=ADMIN)
    assert response.status in (200, 201, 202), answer


def test_operations_with_a_body_have_examples() -> None:
    assert len(BODIES) == 6


async def test_the_example_of_an_answer_has_its_members(gateway: Gateway) -> None:
    await gateway.location("frankfurt")
    await gateway.claim("frankfurt", ID)
    _, answer = await gateway.get(f"/resolve/{ID}")
    responses = DOCUMENT["paths"]["/resolve/{id}"]["get"]["responses"]
    example = responses["200"]["content"]["application/json"]["example"]
    assert example.keys() == answer.keys()
    assert example["owners"][0].keys() == answer["owners"][0].keys()
