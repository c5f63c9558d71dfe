"""The ids that requests are given."""

from __future__ import annotations

import multiprocessing
import uuid

from resolver.gateway.request_ids import new_request_id


def _one_more(_: int) -> str:
    return new_request_id()


def test_request_ids_are_uuids_and_each_process_has_its_own() -> None:
    ids = {new_request_id() for _ in range(1000)}
    with multiprocessing.get_context("fork").Pool(2) as pool:
        ids |= {*pool.map(_one_more, range(1000), chunksize=1)}
    assert len(ids) == 2000
    for one in ids:
        made = uuid.UUID(one.removeprefix("req-"))
        assert (made.version, made.variant) == (4, uuid.RFC_4122)
        assert one == f"req-{made}"
