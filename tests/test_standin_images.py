"""The images of a stand-in, without a server."""

from dataclasses import replace

import pytest

from resolver.standin import SYNTHETIC_TIME, StandIn


def test_the_same_seed_gives_the_same_images() -> None:
    first, second = StandIn(), StandIn()
    first.fill(50, seed=7)
    second.fill(50, seed=7)
    assert list(first.ids()) == list(second.ids())
    image = first.get(next(first.ids()))
    assert image is not None
    assert image.created == SYNTHETIC_TIME
    first.synthetic = replace(first.synthetic, owner="demo")
    assert all(image and image.owner == "demo" for image in map(first.get, first.ids()))


def test_images_omits_deleted_ones_and_sorts_by_id() -> None:
    server = StandIn()
    server.fill(5, seed=1)
    first, second, *_ = server.ids()
    server.delete(first)
    server.update(second, name="renamed")
    server.delete(server.add().id)
    server.add(name="added")
    images = list(server.images())
    assert [image.id for image in images] == sorted(server.ids())
    assert images == [server.get(image.id) for image in images]
    assert sorted(image.name or "" for image in images) == ["added", "renamed", *3 * ["synthetic"]]


def test_an_id_cannot_be_used_again() -> None:
    server = StandIn()
    image = server.add()
    server.delete(image.id)
    with pytest.raises(ValueError, match="exists"):
        server.add(id=image.id)
    with pytest.raises(KeyError):
        server.delete("x")
