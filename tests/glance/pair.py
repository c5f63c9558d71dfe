"""Two servers with every kind of image, some of them on both."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.glance import GlanceProcess, Image

UPPER_CASE_ID = "{:08X}-ABCD-4EF0-8ABC-DEFABCDEFABC"


@dataclass(frozen=True)
class Pair:
    """Two running servers by location name, and the images created in each."""

    servers: dict[str, GlanceProcess]
    images: dict[str, dict[str, Image]]
    """Location name, then kind."""

    def owners(self, image_id: str) -> set[str]:
        """Names of the servers that have the image, in any spelling."""
        return {
            name
            for name, kinds in self.images.items()
            if image_id.lower() in {image.id.lower() for image in kinds.values()}
        }

    def all_images(self) -> list[tuple[str, Image]]:
        """Every (location name, image)."""
        return [(name, image) for name, kinds in self.images.items() for image in kinds.values()]

    def with_data(self) -> list[tuple[str, Image]]:
        """Every (location name, image) that has been uploaded."""
        return [(name, image) for name, image in self.all_images() if not image.queued]

    def in_one_region(self) -> list[tuple[str, Image]]:
        return [
            (name, image) for name, image in self.all_images() if len(self.owners(image.id)) == 1
        ]


@contextmanager
def image_at_both(pair: Pair, **options: Any) -> Iterator[str]:
    """Id of a new image that both servers have until the context ends. ``options`` are those of
    `GlanceProcess.create`."""
    image_id = str(uuid.uuid4())
    created = []
    try:
        for server in pair.servers.values():
            server.create(image_id, **options)
            created.append(server)
        yield image_id
    finally:
        for server in created:
            server.delete(image_id)


def seed(servers: dict[str, GlanceProcess]) -> Pair:
    images: dict[str, dict[str, Image]] = {}
    for number, (name, server) in enumerate(servers.items(), 1):
        images[name] = {
            "private": server.create_private(),
            "community": server.create_community(),
            "hidden": server.create_hidden(),
            "queued": server.create_queued(),
            "upper-case": server.create(UPPER_CASE_ID.format(number)),
        }
    (one, first), (two, second) = servers.items()
    images[one] |= {f"public-{n}": first.create_public() for n in range(32)}
    images[two] |= {f"public-{n}": second.create_public() for n in range(5)}
    images[one]["shared"] = shared = first.create()
    images[two]["shared"] = second.create(shared.id, data=shared.data)
    return Pair(servers, images)
