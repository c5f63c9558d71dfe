"""After a sweep the index has exactly the images of the server, for every kind of server."""

from __future__ import annotations

from pathlib import Path

import pytest

from resolver.errors import LocationUnavailable
from resolver.models import format_id, letter_case_of
from resolver.standin import Caller, StandIn
from tests.support.backends import on_every_backend
from tests.support.ids import make_ids
from tests.support.sweeping import Sweeping, doubt
from tests.sync.conftest import StartServer

TOKENS = {"admin": Caller("admin", admin=True), "member": Caller("demo")}


def add_every_kind(server: StandIn) -> None:
    """One image of each kind that some listing leaves out."""
    server.add(name="public")
    server.add(name="private", visibility="private", owner="elsewhere")
    server.add(name="shared", visibility="shared", owner="elsewhere")
    server.add(name="community", visibility="community", owner="elsewhere")
    server.add(name="queued", status="queued", data=b"")
    server.add(name="deactivated", status="deactivated")
    if not server.old:
        server.add(name="hidden", hidden=True)
        server.add(name="hidden community", hidden=True, visibility="community", owner="elsewhere")


@on_every_backend
async def test_a_sweep_claims_exactly_the_images_of_the_server(
    sweeping: Sweeping, server: StandIn
) -> None:
    server.fill(2600, seed=1)
    add_every_kind(server)
    location = await sweeping.register(server)
    sweep = await sweeping.sweep(location)
    everything = set(server.ids())
    assert len(everything) == 2608
    assert await sweeping.claimed(location) == everything
    assert (sweep.images, sweep.claimed, sweep.released) == (2608, 2608, 0)
    assert sweep.sees_all is True
    assert doubt(location, sweep) == ""
    assert server.requests["GET", "images"] <= 11, "pages are as large as Glance gives"
    seen = [progress.images for progress in sweeping.progress]
    assert seen == sorted(seen)
    assert seen[-1] == 2608

    again = await sweeping.sweep(location)
    assert (again.images, again.claimed, again.released) == (2608, 0, 0)


@on_every_backend
@pytest.mark.parametrize(
    "options",
    [
        {"v1": True, "v2": False},
        {"v1": True},
        {"old": True},
        {"old": True, "v1": True},
        {"prefix": "/image"},
        {"prefix": "/a/b", "old": True},
        {"page_cap": 3},
        {"page_cap": 1, "old": True},
    ],
    ids=str,
)
async def test_a_sweep_reads_every_kind_of_server(
    sweeping: Sweeping, start_server: StartServer, options: dict[str, object]
) -> None:
    server = await start_server(**options)
    add_every_kind(server)
    server.fill(20, seed=2)
    location = await sweeping.register(server)
    sweep = await sweeping.sweep(location)
    assert await sweeping.claimed(location) == set(server.ids())
    assert sweep.images == len(server)
    gone = next(server.ids())
    server.delete(gone)
    assert (await sweeping.sweep(location)).released == 1
    assert await sweeping.claimed(location) == set(server.ids())


@pytest.mark.parametrize("api", ["auto", "v1", "v2"])
@pytest.mark.parametrize("old", [False, True])
async def test_v2_is_listed_where_it_is_served_whatever_api_clients_use(
    sweeping: Sweeping, start_server: StartServer, api: str, old: bool
) -> None:
    """v1 never lists community images of other projects."""
    server = await start_server(v1=True, old=old)
    server.add()
    server.add(visibility="community", owner="somebody")
    location = await sweeping.register(server, api=api)
    await sweeping.sweep(location)
    assert await sweeping.claimed(location) == set(server.ids())


@on_every_backend
async def test_ids_are_claimed_in_the_spelling_of_the_server(
    sweeping: Sweeping, server: StandIn
) -> None:
    spellings = [
        "ABCDEFAB-ABCD-4BCD-8BCD-ABCDEFABCDEF",
        "0abcdefa-Abcd-4bcd-8bcd-abcdefabcdeF",
        "fabcdefa-abcd-4bcd-8bcd-abcdefabcdef",
        "FFFFFFFF-FFFF-4FFF-8FFF-FFFFFFFFFFFF",
        "00000000-0000-4000-8000-000000000000",
    ]
    server.fill(1200, seed=3)  # they are on different pages then
    for image_id in spellings:
        server.add(id=image_id)
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    assert await sweeping.claimed(location) == set(server.ids())

    assert (await sweeping.sweep(location)).released == 0
    server.delete(spellings[0])
    server.delete(spellings[2])
    assert (await sweeping.sweep(location)).released == 2
    assert await sweeping.claimed(location) == set(server.ids())


@pytest.mark.parametrize("upper", [False, True])
async def test_a_claim_in_another_spelling_is_corrected(
    sweeping: Sweeping, server: StandIn, upper: bool
) -> None:
    """Such as one made by hand, or for an image that was deleted and created again."""
    image_id = b"\xab" * 16
    spellings = {False: format_id(image_id), True: format_id(image_id).upper()}
    server.add(id=spellings[upper])
    location = await sweeping.register(server)
    wrong = letter_case_of(spellings[not upper])
    await sweeping.index.claims.claim(location.number, {image_id: wrong})
    sweep = await sweeping.sweep(location)
    assert (sweep.claimed, sweep.released) == (0, 0)
    assert await sweeping.claimed(location) == {spellings[upper]}


async def test_upper_case_ids_do_not_trigger_the_shrink_guard(
    sweeping: Sweeping, server: StandIn
) -> None:
    for image_id in make_ids(40):
        server.add(id=format_id(image_id).upper())
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    sweep = await sweeping.sweep(location)
    assert (sweep.images, sweep.claimed, sweep.released) == (40, 0, 0)
    assert server.requests["GET", "image"] == 0, "no image needs to be asked about"
    assert await sweeping.claimed(location) == set(server.ids())


@on_every_backend
async def test_deleted_images_are_released_and_new_ones_claimed(
    sweeping: Sweeping, server: StandIn
) -> None:
    server.fill(1500, seed=4)
    location = await sweeping.register(server)
    other = await sweeping.register(server, "other")
    await sweeping.sweep(location)
    await sweeping.sweep(other)
    first, *_, last = server.ids()
    for image_id in (first, last):
        server.delete(image_id)
    server.add()
    sweep = await sweeping.sweep(location)
    assert (sweep.claimed, sweep.released, sweep.images) == (1, 2, 1499)
    assert await sweeping.claimed(location) == set(server.ids())
    assert {first, last} <= await sweeping.claimed(other), "another location's claims stay"


@on_every_backend
async def test_a_claim_for_an_image_never_listed_is_released(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    server = await start_server(page_cap=10)
    server.fill(100, seed=5)
    location = await sweeping.register(server)
    edges = [bytes(16), b"\x80" * 16, b"\xff" * 16]
    await sweeping.index.claims.claim(location.number, edges)
    sweep = await sweeping.sweep(location)
    assert (sweep.claimed, sweep.released) == (100, 3)
    assert await sweeping.claimed(location) == set(server.ids())


@pytest.mark.parametrize("kind", ["token_env", "token_file"])
async def test_a_rotated_credential_takes_effect_without_a_restart(
    sweeping: Sweeping,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
) -> None:
    file = tmp_path / "token"

    def store(token: str) -> None:
        monkeypatch.setenv("ONE_TOKEN", token)
        file.write_text(f"{token}\n")

    server = await start_server(tokens=TOKENS)
    add_every_kind(server)
    where = {"token_env": "ONE_TOKEN", "token_file": str(file)}[kind]
    location = await sweeping.register(server, auth={kind: where})

    with pytest.raises(LocationUnavailable, match=where) as caught:
        await sweeping.sweep(location)
    assert caught.value.problem_code == "no-credential"

    store("wrong")
    with pytest.raises(LocationUnavailable, match="401") as caught:
        await sweeping.sweep(location)
    assert caught.value.problem_code == "unauthorized"
    assert "wrong" not in caught.value.detail

    store("admin")
    sweep = await sweeping.sweep(location)
    assert sweep.sees_all is True
    assert await sweeping.claimed(location) == set(server.ids())

    store("")
    with pytest.raises(LocationUnavailable, match="holds no token"):
        await sweeping.sweep(location)


async def test_a_missing_credential_is_reported(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    location = await sweeping.register(await start_server(tokens=TOKENS))
    with pytest.raises(LocationUnavailable, match="set the location's `auth`") as caught:
        await sweeping.sweep(location)
    assert caught.value.problem_code == "unauthorized"


@pytest.mark.parametrize("registered", [None, False])
async def test_a_limited_credential_releases_nothing_and_proves_no_absence(
    sweeping: Sweeping,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
    registered: bool | None,
) -> None:
    """Whether Glance shows it or the operator has registered it."""
    monkeypatch.setenv("ONE_TOKEN", "member" if registered is None else "admin")
    server = await start_server(tokens=TOKENS)
    add_every_kind(server)
    location = await sweeping.register(server, auth={"token_env": "ONE_TOKEN"}, sees_all=registered)
    sweep = await sweeping.sweep(location)
    assert sweep.sees_all is False
    assert "does not see every image" in doubt(location, sweep)
    before = await sweeping.claimed(location)
    assert before
    assert before <= set(server.ids())

    for image_id in before:
        server.delete(image_id)
    monkeypatch.setenv("ONE_TOKEN", "member")
    for confirm in (False, True):
        sweep = await sweeping.sweep(location, confirm_shrink=confirm)
        assert sweep.released == 0
        assert await sweeping.claimed(location) == before


async def test_sees_all_must_be_registered_for_old_servers(
    sweeping: Sweeping, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Glance before 2.11 allowed everybody to list tasks, so that this proves nothing."""
    monkeypatch.setenv("ONE_TOKEN", "admin")
    server = await start_server(tokens=TOKENS, old=True)
    auth = {"token_env": "ONE_TOKEN"}
    unsure = await sweeping.register(server, "unsure", auth=auth)
    sweep = await sweeping.sweep(unsure)
    assert sweep.sees_all is None
    assert "Register the location with `sees_all`" in doubt(unsure, sweep)
    sure = await sweeping.register(server, "sure", auth=auth, sees_all=True)
    assert doubt(sure, await sweeping.sweep(sure)) == ""
