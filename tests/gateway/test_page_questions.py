"""The box of the status page: an id, a name or a digest, and as whom locations are asked."""

from __future__ import annotations

import hashlib
import re

import pytest

from resolver.gateway.page.question import BY_ID, Question, question_of
from tests.gateway.conftest import Gateway, Start
from tests.gateway.test_image_lookup import DATA, IDS, images
from tests.gateway.test_status_page import EVIL, page, visible
from tests.support import faults
from tests.support.clouds import Cloud

__all__ = ["images"]

SHA512, MD5 = hashlib.sha512(DATA).hexdigest(), hashlib.md5(DATA).hexdigest()
ID = IDS[0]


async def answer(gateway: Gateway, query: str, status: int = 200, token: str | None = None) -> str:
    """The section with the answer, as markup."""
    headers = {"Accept": "text/html"} | ({"X-Auth-Token": token} if token else {})
    response, _ = await gateway.get(f"/?{query}", headers=headers)
    assert response.status == status
    assert response.headers["Vary"] == "Accept, X-Auth-Token"
    assert response.headers["Cache-Control"] == "no-store"
    text = await response.text()
    return text.partition('id="answers"')[2].partition('<h2 id="problems-heading"')[0]


@pytest.mark.parametrize(
    ("query", "by"),
    [
        ({"image": ID}, BY_ID),
        ({"image": f" {ID.upper()} "}, BY_ID),
        ({"image": f"urn:uuid:{ID}"}, BY_ID),
        ({"image": MD5}, BY_ID),
        ({"image": SHA512}, "os_hash_value"),
        ({"image": SHA512[:64].upper()}, "os_hash_value"),
        ({"image": SHA512[:63]}, "name"),
        ({"image": ID[:-1]}, "name"),
        ({"image": "debian 12"}, "name"),
        ({"name": ID}, "name"),
        ({"checksum": MD5}, "checksum"),
        ({"id": "debian"}, BY_ID),
    ],
)
def test_a_text_is_recognized_as_id_digest_or_name(query: dict[str, str], by: str) -> None:
    (text,) = query.values()
    assert question_of(query) == Question(by, text.strip())


def test_a_region_may_be_given_with_any_question() -> None:
    asked = question_of({"image": "debian", "region": " East "})
    assert asked == Question("name", "debian", "East")
    assert question_of({"region": "East"}) is None


def test_a_page_without_a_query_asks_nothing() -> None:
    assert question_of({}) is None
    assert question_of({"image": " ", "id": "", "other": "x"}) is None


async def test_images_are_found_by_name_and_digest(gateway: Gateway, images: Cloud) -> None:
    everywhere = {0: {"one", "two"}, 1: {"one"}, 2: {"two"}}
    for query, numbers in (
        ("image=debian", (0, 1)),
        (f"image={SHA512}", (0, 1, 2)),
        (f"checksum={MD5}", (0, 1, 2)),
    ):
        section = await answer(gateway, query, token="demo")
        rows = [visible(row).split() for row in re.findall(r"<tr[^>]*>(.*?)</tr>", section)[1:]]
        found = {row[0]: (row[1], set(" ".join(row[3:]).split(", "))) for row in rows}
        assert found == {
            IDS[number]: ("other" if number == 2 else "debian", everywhere[number])
            for number in numbers
        }, query


async def test_the_only_match_is_explained(gateway: Gateway, images: Cloud) -> None:
    text = visible(await answer(gateway, "image=other", token="demo"))
    assert "Looked up by the name other ." in text
    assert "two 1 chosen" in text
    assert "one not an owner" in text


async def test_no_match(gateway: Gateway, images: Cloud) -> None:
    assert "No image matches." in visible(await answer(gateway, "name=x", token="demo"))


async def test_without_a_token_the_credential_of_the_location_is_not_used(
    gateway: Gateway, images: Cloud
) -> None:
    """The credential of the location, which sees all images, is not for anonymous clients."""
    text = visible(await answer(gateway, "image=debian", 401))
    assert "OS_TOKEN=… glance-resolver resolve --name …" in text
    assert not set(IDS) & set(re.findall(r"[0-9a-f-]{36}", text))
    text = visible(await answer(gateway, "image=debian", 401, token="other"))
    assert "OS_TOKEN" not in text


async def test_without_a_token_only_anonymously_listed_images_are_shown(
    gateway: Gateway, images: Cloud
) -> None:
    await images.add("open", tokens={}, anonymous=True)
    images.servers["open"].add(id=IDS[3], name="debian", visibility="public", data=DATA)
    text = visible(await answer(gateway, "image=debian"))
    assert "Not asked, or without an answer: one, two." in text
    assert f"{IDS[3]} debian active open" in text
    assert IDS[0] not in text


async def test_locations_that_did_not_answer_are_named(gateway: Gateway, images: Cloud) -> None:
    images.set_fault("two", faults.status(503))
    text = visible(await answer(gateway, "image=debian", token="demo"))
    assert "Not asked, or without an answer: two." in text
    assert IDS[1] in text


async def test_a_text_that_may_be_id_or_checksum_links_to_the_other_lookup(
    gateway: Gateway, images: Cloud
) -> None:
    section = await answer(gateway, f"image={MD5}", token="demo")
    assert f'href="?checksum={MD5}"' in section
    assert "Look it up as a checksum" not in await answer(gateway, f"image={ID}")


async def test_text_of_images_is_escaped(gateway: Gateway, images: Cloud) -> None:
    images.servers["one"].add(id=IDS[5], name=EVIL, tags=("evil",), data=DATA)
    section = await answer(gateway, f"os_hash_value={SHA512}", token="demo")
    assert "<script>" not in section
    assert "&lt;script&gt;" in section


async def test_lookups_are_off_where_listings_are_off(start: Start) -> None:
    gateway = await start(listing=False)
    assert "RESOLVER_LISTING" in visible(await answer(gateway, "image=debian", 404))


async def test_lookups_are_rate_limited(start: Start) -> None:
    gateway = await start(client_rate=0.1)
    await answer(gateway, "image=debian", 503)  # no location is in service
    assert "RESOLVER_CLIENT_RATE" in await page(gateway, "?image=debian", 429)


async def test_the_token_is_never_in_a_url(gateway: Gateway) -> None:
    """A form sends only what has a name."""
    (field,) = re.findall(r'<input[^>]*id="user-token"[^>]*>', await page(gateway))
    assert " name=" not in field


async def test_of_several_keystones_the_region_says_whose_token_it_is(
    gateway: Gateway, images: Cloud
) -> None:
    assert 'name="region"' not in await page(gateway)
    north = await images.add("north", fields={"domain": "north", "region": "North"})
    north.add(id=IDS[6], name="debian", data=DATA)
    choices = re.findall(r'<option value="([^"]*)"', await page(gateway))
    assert choices == ["", "North", "R-one", "R-two"]
    assert "name a region" in visible(await answer(gateway, "image=debian", 400, token="demo"))
    asked = {name: server.requests["GET", "images"] for name, server in images.servers.items()}
    section = await answer(gateway, "image=debian&region=R-one", token="demo")
    assert IDS[0] in section
    assert IDS[6] not in section
    assert f'href="?id={IDS[0]}&amp;region=R-one"' in section
    assert images.servers["north"].requests["GET", "images"] == asked["north"]
    text = await page(gateway, "?region=North&id=x", 400)
    assert '<option value="North" selected="">North</option>' in text
