"""The images of one stand-in, in memory."""

from __future__ import annotations

import heapq
import json
import operator
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from resolver.standin.image import SYNTHETIC_TIME, Image
from resolver.standin.order import Order
from resolver.standin.packed import PackedIds

_SLOT = "@id@"  # stands for the id in the text of a synthetic image, so a page is string work only


class Images:
    """Images with a record each, and a block of synthetic ones that differ in their id only."""

    def __init__(self) -> None:
        self.synthetic = Image(id=_SLOT, name="synthetic", created=SYNTHETIC_TIME)
        """What all images of `fill` look like. To change it: `replace(self.synthetic, …)`."""
        self._images: dict[str, Image] = {}
        self._packed = PackedIds()

    def __len__(self) -> int:
        changed = sum(image_id in self._packed for image_id in self._images)
        live = sum(not image.deleted for image in self._images.values())
        return len(self._packed) - changed + live

    def __bool__(self) -> bool:
        return True  # an empty server is still a server

    def add(self, image: Image | None = None, **fields: Any) -> Image:
        """Put an image there. Raises ValueError where its id was ever used."""
        image = image or Image(**fields)
        if self.get(image.id):
            raise ValueError(f"image {image.id} exists")
        self._images[image.id] = image
        return image

    def get(self, image_id: str) -> Image | None:
        """The image, a deleted one too."""
        if image_id in self._images or image_id in self._packed:
            return self._existing(image_id)
        return None

    def update(self, image_id: str, **fields: Any) -> Image:
        """Change an image; `updated` is now unless given. Raises KeyError for an unknown id."""
        if (image := self.get(image_id)) is None:
            raise KeyError(image_id)
        self._images[image_id] = replace(image, **{"updated": time.time(), **fields})
        return self._images[image_id]

    def delete(self, image_id: str) -> Image:
        """Delete as Glance does: the row stays, marked. Raises KeyError for an unknown id."""
        return self.update(image_id, deleted=True, status="deleted")

    def fill(self, count: int, *, seed: int | None = None, prefix_bytes: bytes = b"") -> None:
        """Add images with random v4 ids that begin with `prefix_bytes` (12 at most).

        They take 16 bytes each: a million is 16 MB and two seconds. Stand-ins filled with one seed
        have the same images.
        """
        self._packed = self._packed.with_random(count, seed, prefix_bytes)

    def ids(self) -> Iterator[str]:
        """Ids of all images that are not deleted, in order."""
        return self.walk(Order([("id", False)]), None, lambda image: not image.deleted)

    def images(self) -> Iterator[Image]:
        """All images that are not deleted, in order of id."""
        return map(self._existing, self.ids())

    def walk(
        self,
        order: Order,
        after: Image | None,
        wanted: Callable[[Image], bool],
        among: Sequence[str] | None = None,
    ) -> Iterator[str]:
        """Ids in order: the images that have a record, merged with the block of synthetic ones."""
        known = self._images.values() if among is None else filter(None, map(self.get, among))
        own = sorted((order.key(image), image.id) for image in known if wanted(image))
        block, packed = len(self._packed), self._packed
        if among is not None or not wanted(self.synthetic):
            block = 0

        def at(position: int) -> str:
            return packed.at(block - 1 - position if order.id_descends else position)

        def key_at(position: int) -> tuple[Any, ...]:
            return order.key(self.synthetic, at(position))

        first = start = 0
        if after is not None:
            first = bisect_right(own, order.key(after), key=operator.itemgetter(0))
            start = bisect_right(range(block), order.key(after), key=key_at)
        rest = (
            (key_at(position), image_id)
            for position in range(start, block)
            if (image_id := at(position)) not in self._images
        )
        return (image_id for _, image_id in heapq.merge(own[first:], rest))

    def render(self, ids: Iterator[str], limit: int, form: Callable[[Image], Any]) -> list[str]:
        """Records as JSON text. Synthetic ones are cut from one text: a page takes milliseconds."""
        template = json.dumps(form(self.synthetic))
        return [
            template.replace(_SLOT, image_id)
            if (image := self._images.get(image_id)) is None
            else json.dumps(form(image))
            for image_id in islice(ids, limit)
        ]

    def _existing(self, image_id: str) -> Image:
        return self._images.get(image_id) or replace(self.synthetic, id=image_id)
