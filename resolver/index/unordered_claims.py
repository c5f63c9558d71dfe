"""One location's claims that do not lie in UUID order, for a walk along its listing.

Ids that are not random are spread (`resolver.index.spreading`), so neighbours in a listing lie
anywhere in the second half of the buckets. So each is looked up. What is claimed and not listed
shows at the end, in the counts: where more claims were counted in a span than were found for listed
images, the span's buckets are read.

To distinguish them, the ids that were listed are kept, 16 bytes each: in memory up to
`MAX_MEMORY_BYTES`, beyond that in a temporary file. A location without such claims needs none.
"""

from __future__ import annotations

import asyncio
import tempfile
from array import array
from collections.abc import AsyncIterator, Collection, Iterator
from types import TracebackType
from typing import Self

from resolver.index.buckets import Buckets
from resolver.index.claims import Claims, StoredClaim

MAX_MEMORY_BYTES = 1 << 24
"""Listed ids of one sweep in memory: a million."""

MAX_CANDIDATES = 50_000
"""Claims that are compared with the listed ids at once, in one pass over these: some 20 MB."""

CHUNK_IDS = 16_384
"""Listed ids that are read back at once: some milliseconds of work."""

ID_BYTES = 16


class UnorderedClaims:
    """The claims of one location in the second half of the buckets, and what was listed of them.
    To be closed, since it may have a temporary file."""

    def __init__(
        self,
        claims: Claims,
        buckets: Buckets,
        number: int,
        counted: array[int],
        shift: int,
        max_memory_bytes: int = MAX_MEMORY_BYTES,
    ) -> None:
        """``counted``: the location's claims in each span of the second half; the span of a bucket
        is its number in that half shifted right by ``shift``. ``max_memory_bytes``: of listed ids;
        more of them lie in a temporary file."""
        self._claims = claims
        self._buckets = buckets
        self._number = number
        self._counted = counted
        self._shift = shift
        self._found = array(counted.typecode, bytes(counted.itemsize * len(counted)))
        self._has_claims = any(counted)
        self._listed = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - closed by `__exit__`
            max_size=max_memory_bytes
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listed.close()

    def _span(self, image_id: bytes) -> int:
        return self._buckets.number(image_id) % self._buckets.half >> self._shift

    def add_listed(self, ids: Collection[bytes]) -> None:
        """These images are listed.

        Raises:
            OSError: the temporary file cannot be written.
        """
        if self._has_claims:
            self._listed.write(b"".join(ids))

    async def compare(self, ids: Collection[bytes]) -> dict[bytes, StoredClaim]:
        """The location's claims on these listed images, except where it had none in the span.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        spans = {image_id: self._span(image_id) for image_id in ids} if self._has_claims else {}
        counted = [image_id for image_id, span in spans.items() if self._counted[span]]
        found = await self._claims.stored(self._number, counted, buckets=self._buckets)
        for image_id in found:
            self._found[spans[image_id]] += 1
        return found

    async def missing(self, after: bytes, up_to: bytes) -> AsyncIterator[dict[bytes, StoredClaim]]:
        """The location's claims on images that are not listed, with ids after ``after`` and not
        after ``up_to``; batch by batch.

        Raises:
            IndexUnavailable: Redis does not answer, or a bucket has other contents than claims.
        """
        candidates: dict[bytes, StoredClaim] = {}
        async for _, claims in self._claims.of_location(
            self._number, self._buckets_with_more(), buckets=self._buckets
        ):
            candidates |= {
                image_id: claim for image_id, claim in claims.items() if after < image_id <= up_to
            }
            if len(candidates) >= MAX_CANDIDATES:
                yield await self._without_listed(candidates)
                candidates = {}
        if candidates:
            yield await self._without_listed(candidates)

    def _buckets_with_more(self) -> Iterator[int]:
        """Buckets of the spans in which more claims were counted than found."""
        for span, (counted, found) in enumerate(zip(self._counted, self._found, strict=True)):
            if counted > found:
                first = self._buckets.half + (span << self._shift)
                yield from range(first, first + (1 << self._shift))

    async def _without_listed(
        self, candidates: dict[bytes, StoredClaim]
    ) -> dict[bytes, StoredClaim]:
        self._listed.seek(0)
        while chunk := self._listed.read(ID_BYTES * CHUNK_IDS):
            for at in range(0, len(chunk), ID_BYTES):
                candidates.pop(chunk[at : at + ID_BYTES], None)
            await asyncio.sleep(0)
        return candidates
