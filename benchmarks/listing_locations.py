"""Glance servers in one process that cost next to nothing: prepared pages after a fixed time.

``python -m benchmarks.listing_locations COUNT ROWS COPIES MILLISECONDS`` prints their URLs. The
last one answers after that many milliseconds, the others sooner. Each has ROWS images, of which
COPIES are also at the next server, with another time. Markers work, filters but ``id`` are ignored.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import uuid
from bisect import bisect_right
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

BEGAN = 1_700_000_000
ONE_PER_SECONDS = 60
VERSIONS = {"versions": [{"id": f"v2.{n}", "status": "SUPPORTED"} for n in (15, 13, 9, 7, 5, 0)]}

Listed = tuple[int, str, str]
"""Minus the time, the id and the row's text: sorts as Glance's default order does."""


def image_row(image_id: str, created: int) -> str:
    """A row of 1.1 KB, as a common image of a distribution has it."""
    time = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    link = f"/v2/images/{image_id}"
    row = {
        **{"hw_disk_bus": "scsi", "hw_scsi_model": "virtio-scsi", "hw_qemu_guest_agent": "yes"},
        **{"os_distro": "debian", "os_version": "12", "os_require_quiesce": "yes"},
        **{"owner_specified.openstack.md5": "", "owner_specified.openstack.object": "images/x"},
        **{"name": f"debian-{image_id[:4]}", "disk_format": "qcow2", "container_format": "bare"},
        **{"visibility": "public", "size": 410_976_256, "virtual_size": 2_147_483_648},
        **{"status": "active", "checksum": "d" * 32, "protected": False, "min_ram": 512},
        **{"min_disk": 2, "owner": "a" * 32, "os_hidden": False, "os_hash_algo": "sha512"},
        **{"os_hash_value": "f" * 128, "id": image_id, "created_at": time, "updated_at": time},
        **{"tags": ["debian", "x86"], "self": link, "file": f"{link}/file"},
        **{"schema": "/v2/schemas/image", "stores": "fs"},
    }
    return json.dumps(row)


def make_images(count: int, rows: int, copies: int) -> list[dict[str, int]]:
    """The time of each image, by id, of each server."""
    rng = random.Random(20)

    def created() -> int:
        return BEGAN + rng.randrange(ONE_PER_SECONDS * rows)

    ids = [
        [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(rows)]
        for _ in range(count)
    ]
    images = [{image_id: created() for image_id in some} for some in ids]
    for number, some in enumerate(ids):
        images[(number + 1) % count] |= {image_id: created() for image_id in some[:copies]}
    return images


class PreparedServer:
    """One server."""

    def __init__(self, images: dict[str, int], delay: float) -> None:
        self.delay = delay
        self.rows: list[Listed] = sorted(
            (-created, image_id, image_row(image_id, created))
            for image_id, created in images.items()
        )
        self.by_id = {row[1]: row for row in self.rows}

    def answer(self, target: str) -> bytes:
        parts = urlsplit(target)
        if parts.path != "/v2/images":
            return json.dumps(VERSIONS).encode()
        query = parse_qs(parts.query)
        limit = int(query.get("limit", ["25"])[0])
        rows = self.rows
        if "id" in query:
            wanted = query["id"][0].removeprefix("in:").split(",")
            rows = [self.by_id[image_id] for image_id in wanted if image_id in self.by_id]
        start = 0
        if "marker" in query:
            start = bisect_right(rows, self.by_id[query["marker"][0]])
        page = rows[start : start + limit]
        follows = ', "next": "/v2/images?marker=x"' if len(page) == limit else ""
        text = ", ".join([row[2] for row in page])
        return f'{{"images": [{text}], "first": "/v2/images"{follows}}}'.encode()


class Connection(asyncio.Protocol):
    """One request after the other; nothing of HTTP but what the gateway's client sends."""

    def __init__(self, server: PreparedServer) -> None:
        self._server = server
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            target = head.split(b" ", 2)[1].decode()
            asyncio.get_running_loop().call_later(self._server.delay, self._respond, target)

    def _respond(self, target: str) -> None:
        body = self._server.answer(target)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        self._transport.write(f"{head}\r\n\r\n".encode() + body)


async def serve(count: int, rows: int, copies: int, slowest: float) -> None:
    """``slowest``: the seconds after which the last server answers."""
    loop = asyncio.get_running_loop()
    for number, images in enumerate(make_images(count, rows, copies), 1):
        prepared = PreparedServer(images, slowest * number / count)
        listener = await loop.create_server(lambda p=prepared: Connection(p), "127.0.0.1", 0)  # type: ignore[misc]
        print(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    amounts = [int(text) for text in sys.argv[1:]]
    asyncio.run(serve(amounts[0], amounts[1], amounts[2], amounts[3] / 1000))
