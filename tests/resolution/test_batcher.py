"""Which lookups travel together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from resolver.resolution.batcher import LookupBatcher
from tests.support.wait import wait_until


async def test_while_a_batch_is_under_way_two_turns_of_the_loop_share_the_next() -> None:
    batches: list[list[bytes]] = []
    found: dict[bytes, str | BaseException] = {}
    index_answers = asyncio.Event()

    async def read(ids: Sequence[bytes]) -> list[str]:
        batches.append(list(ids))
        await index_answers.wait()
        return [image_id.decode() for image_id in ids]

    batcher = LookupBatcher(read)

    async def request_in_one_turn(*ids: bytes) -> None:
        for image_id in ids:
            batcher.request(image_id, lambda value, of=image_id: found.update({of: value}))
        await asyncio.sleep(0)

    await request_in_one_turn(b"a", b"b")
    assert batches == [[b"a", b"b"]], "nothing is under way: the next turn reads them"
    await request_in_one_turn(b"c")
    await request_in_one_turn(b"d")
    assert batches == [[b"a", b"b"], [b"c", b"d"]]
    index_answers.set()
    await wait_until(lambda: len(found) == 4)
    assert found == {b"a": "a", b"b": "b", b"c": "c", b"d": "d"}
