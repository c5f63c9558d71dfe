"""What a page of a listing takes in memory, since many sweeps have one or two at the same time."""

from __future__ import annotations

import json
import tracemalloc

from resolver.glance.glance_reply import MAX_EXAMPLE_CHARACTERS, Reply, UnnamedRow
from resolver.image_facts import ImageFacts
from resolver.models import format_id
from tests.support.ids import make_ids

IDS = make_ids(1000)
RECORD = {
    **{"status": "active", "size": 2_361_393_152, "checksum": "0f" * 16, "os_hash_algo": "sha512"},
    **{"os_hash_value": "0123456789abcdef" * 8, "name": "server", "visibility": "public"},
    **{"owner": "a7b1d0a40a064a2c9f8e7a45e3c9ce10", "os_hidden": False, "protected": False},
    **{"disk_format": "qcow2", "container_format": "bare", "min_ram": 0, "min_disk": 20},
    **{"virtual_size": None, "tags": ["lts"], "locations": [], "schema": "/v2/schemas/image"},
    **{"created_at": "2026-11-27T00:00:00Z", "updated_at": "2026-11-27T00:00:00Z"},
}
BODY = json.dumps({"images": [{**RECORD, "id": format_id(image_id)} for image_id in IDS]}).encode()
MAX_ROW_BYTES = 1200
"""A whole row takes some 3,400."""


async def test_of_a_row_only_what_is_read_is_kept() -> None:
    reply = Reply(200, {}, BODY)
    await reply.page(10)
    tracemalloc.start()
    try:
        page = await reply.page(len(IDS))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(page.rows) == len(IDS)
    assert taken < MAX_ROW_BYTES * len(IDS)
    assert ImageFacts.of(page.rows[0]) == ImageFacts.of(RECORD)


async def test_of_a_row_without_an_id_a_part_is_kept_to_be_shown() -> None:
    rows = [{"name": "old"}, 1, None, "x" * 1000]
    page = await Reply(200, {}, json.dumps({"images": rows}).encode()).page(10)
    shown = ['{"name": "old"}', "1", "null", f'"{"x" * (MAX_EXAMPLE_CHARACTERS - 4)}...']
    assert page.rows == [UnnamedRow(example) for example in shown]
