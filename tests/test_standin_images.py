"""The images of a stand-in, without a server."""

from dataclasses import replace

import pytest

from resolver.standin import SYNTHETIC_TIME, StandIn


def test_a_seed_gives_the_same_images() -> None:
    one, two = StandIn(), StandIn()
    one.fill(50, seed=7)
    two.fill(50, seed=7)
    assert list(one.ids()) == list(two.ids())
    image = one.get(next(one.ids()))
    assert image is not None
    assert image.created == SYNTHETIC_TIME
    one.synthetic = replace(one.synthetic, owner="demo")
    assert all(image and image.owner == "demo" for image in map(one.get, one.ids()))


def test_images_are_the_live_ones_in_order_of_id() -> None:
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


def test_ids_are_used_once() -> None:
    server = StandIn()
    image = server.add()
    server.delete(image.id)
    with pytest.raises(ValueError, match="exists"):
        server.add(id=image.id)
    with pytest.raises(KeyError):
        server.delete("x")
