"""An id that also stands in a location's URL, which who makes images may choose."""

from __future__ import annotations

from tests.gateway.conftest import Gateway

V = "11111111-1111-4111-8111-111111111111"
W = "22222222-2222-4222-8222-222222222222"
URL = f"https://one.example/{V}"


async def test_an_id_inside_a_location_url_does_not_change_other_answers(gateway: Gateway) -> None:
    await gateway.location("one", url=URL, region=V)
    await gateway.claim("one", V, W)
    for order in ([V, W], [W, V]):
        for text in order:
            for method in ("GET", "HEAD"):
                response, _ = await gateway.call(method, f"/v2/images/{text}")
                assert response.headers["Location"] == f"{URL}/v2/images/{text}"
        _, answers = await gateway.call("POST", "/resolve", json=order)
        assert [answer["url"] for answer in answers] == [
            f"{URL}/v2/images/{text}" for text in order
        ]
        assert [answer["owners"][0]["region"] for answer in answers] == [V, V]
