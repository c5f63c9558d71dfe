"""Images whose id is also a part of a location's URL, as users can choose ids."""

from __future__ import annotations

from tests.gateway.conftest import Gateway

IN_URL = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
URL = f"https://one.example/{IN_URL}"


async def test_an_id_inside_a_location_url_does_not_change_other_answers(gateway: Gateway) -> None:
    await gateway.location("one", url=URL, region=IN_URL)
    await gateway.claim("one", IN_URL, OTHER)
    for order in ([IN_URL, OTHER], [OTHER, IN_URL]):
        for text in order:
            for method in ("GET", "HEAD"):
                response, _ = await gateway.call(method, f"/v2/images/{text}")
                assert response.headers["Location"] == f"{URL}/v2/images/{text}"
        _, answers = await gateway.call("POST", "/resolve", json=order)
        assert [answer["url"] for answer in answers] == [
            f"{URL}/v2/images/{text}" for text in order
        ]
        assert [answer["owners"][0]["region"] for answer in answers] == [IN_URL, IN_URL]
