"""The request ids that the gateway makes."""

from __future__ import annotations

import multiprocessing
import uuid

from resolver.gateway.request_ids import new_request_id


def _request_id(_: int) -> str:
    return new_request_id()


def test_request_ids_are_uuids_and_each_process_has_its_own() -> None:
    ids = {new_request_id() for _ in range(1000)}
    with multiprocessing.get_context("fork").Pool(2) as pool:
        ids |= {*pool.map(_request_id, range(1000), chunksize=1)}
    assert len(ids) == 2000
    for request_id in ids:
        made = uuid.UUID(request_id.removeprefix("req-"))
        assert (made.version, made.variant) == (4, uuid.RFC_4122)
        assert request_id == f"req-{made}"
