"""The images of one stand-in, in memory."""

from __future__ import annotations

import heapq
import json
import operator
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from resolver.standin.image import SYNTHETIC_TIME, Image
from resolver.standin.order import Order
from resolver.standin.packed import PackedIds

_ID_PLACEHOLDER = "@id@"
"""The id in the JSON text of a synthetic image. Replacing it makes a page fast."""


class Images:
    """Images with a record each, and a block of synthetic images that differ only in their id."""

    def __init__(self) -> None:
        self.synthetic = Image(id=_ID_PLACEHOLDER, name="synthetic", created=SYNTHETIC_TIME)
        """The fields of all images of `fill`. To change them: `replace(self.synthetic, …)`."""
        self._images: dict[str, Image] = {}
        self._packed = PackedIds()

    def __len__(self) -> int:
        changed = sum(image_id in self._packed for image_id in self._images)
        live = sum(not image.deleted for image in self._images.values())
        return len(self._packed) - changed + live

    def __bool__(self) -> bool:
        return True  # an empty server is still a server

    def add(self, image: Image | None = None, **fields: Any) -> Image:
        """Adds an image. Raises ValueError if its id was ever used."""
        image = image or Image(**fields)
        if self.get(image.id):
            raise ValueError(f"image {image.id} exists")
        self._images[image.id] = image
        return image

    def get(self, image_id: str) -> Image | None:
        """The image, also if it is deleted; None for an unknown id."""
        if image_id in self._images or image_id in self._packed:
            return self._existing(image_id)
        return None

    def update(self, image_id: str, **fields: Any) -> Image:
        """Changes an image; `updated` is now unless given. Raises KeyError for an unknown id."""
        if (image := self.get(image_id)) is None:
            raise KeyError(image_id)
        self._images[image_id] = replace(image, **{"updated": time.time(), **fields})
        return self._images[image_id]

    def delete(self, image_id: str) -> Image:
        """Deletes as Glance does: marks the record. Raises KeyError for an unknown id."""
        return self.update(image_id, deleted=True, status="deleted")

    def fill(self, count: int, *, seed: int | None = None, prefix_bytes: bytes = b"") -> None:
        """Adds images with random v4 ids that begin with `prefix_bytes` (12 at most).

        They take 16 bytes each: a million takes 16 MB and two seconds. Stand-ins filled with the
        same seed have the same images.
        """
        self._packed = self._packed.with_random(count, seed, prefix_bytes)

    def fill_with(self, ids: Iterable[bytes]) -> None:
        """The same with these ids, of 16 bytes each."""
        self._packed = self._packed.with_ids(ids)

    def ids(self) -> Iterator[str]:
        """Ids of all images that are not deleted, sorted."""
        return self.walk(Order([("id", False)]), None, lambda image: not image.deleted)

    def images(self) -> Iterator[Image]:
        """All images that are not deleted, sorted by id."""
        return map(self._existing, self.ids())

    def walk(
        self,
        order: Order,
        after: Image | None,
        wanted: Callable[[Image], bool],
        among: Sequence[str] | None = None,
    ) -> Iterator[str]:
        """Ids in order: the images that have a record, merged with the block of synthetic ones.

        Args:
            order: how to sort.
            after: the image to start after; None starts at the beginning.
            wanted: whether an image is included.
            among: the ids to choose from; None for all.
        """
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

    def render(
        self, ids: Iterator[str], limit: int, to_record: Callable[[Image], Any]
    ) -> list[str]:
        """Records as JSON text. Synthetic ones share one text: a page takes milliseconds."""
        template = json.dumps(to_record(self.synthetic))
        return [
            template.replace(_ID_PLACEHOLDER, image_id)
            if (image := self._images.get(image_id)) is None
            else json.dumps(to_record(image))
            for image_id in islice(ids, limit)
        ]

    def _existing(self, image_id: str) -> Image:
        return self._images.get(image_id) or replace(self.synthetic, id=image_id)
