"""Images that one location is to claim, in the forms that Redis gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from resolver.image_facts import ImageFacts, ImageStatus
from resolver.index.buckets import Buckets
from resolver.index.codec import ACTIVE_MARK, encode_mark, sole_value


class ClaimBatch(NamedTuple):
    """Image ids with what is known of them at a location."""

    number: int
    """The location's."""
    letter_cases: Mapping[bytes, int]
    """Of all of the images."""
    facts: Mapping[bytes, ImageFacts]
    """Of those of which something is known."""

    def sole_values(self, ids: Iterable[bytes]) -> list[bytes]:
        """What is stored of each image where the location is its first owner."""
        letter_cases, facts = self.letter_cases, self.facts
        active = sole_value(self.number, ACTIVE_MARK)
        return [
            active
            if not letter_cases[image_id]
            and (known := facts.get(image_id))
            and known[0] is ImageStatus.ACTIVE
            else sole_value(self.number, self._known(image_id))
            for image_id in ids
        ]

    def arguments(self, buckets: Buckets, ids: Sequence[bytes]) -> list[bytes]:
        """The field, and what is known, of each image: two arguments of ``claim_images.lua``."""
        cut, field, known = buckets.cut, buckets.field, self._known
        found: list[bytes] = []
        for image_id in ids:
            found += (
                image_id[cut:] if image_id[6] >> 4 == 4 else field(image_id),
                known(image_id),
            )
        return found

    def _known(self, image_id: bytes) -> bytes:
        """Four bytes of letter case where there is one, and the mark."""
        about = self.facts.get(image_id)
        mark = encode_mark(about) if about else b""
        letter_case = self.letter_cases[image_id]
        return letter_case.to_bytes(4, "big") + mark if letter_case else mark
