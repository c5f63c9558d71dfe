"""What the index must know of one image after any history of claims and releases."""

from __future__ import annotations

from resolver.image_facts import NOTHING_KNOWN, HashKind, ImageFacts, ImageStatus
from resolver.index.codec import stored_content
from resolver.models import Owner


class ImageModel:
    """The owners of one image."""

    def __init__(self) -> None:
        self.claims: dict[int, tuple[int, ImageFacts]] = {}
        """By location number: letter case, and what is known of the image there."""

    def claim(self, number: int, letter_case: int, news: ImageFacts = NOTHING_KNOWN) -> bool:
        """Whether the claim is new."""
        is_new = number not in self.claims
        _, known = self.claims.get(number, (0, NOTHING_KNOWN))
        self.claims[number] = letter_case, _merged(known, news)
        self._forget_content_of_a_single_owner()
        return is_new

    def release(self, number: int) -> bool:
        """Whether there was a claim."""
        was_there = self.claims.pop(number, None) is not None
        self._forget_content_of_a_single_owner()
        return was_there

    def owners(self) -> set[Owner]:
        """As `decode_owners` gives them."""
        return {
            Owner(
                number, letter_case, known.status, known.content and stored_content(known.content)
            )
            for number, (letter_case, known) in self.claims.items()
        }

    def _forget_content_of_a_single_owner(self) -> None:
        if len(self.claims) == 1:
            ((number, (letter_case, known)),) = self.claims.items()
            if known.status is ImageStatus.ACTIVE:
                self.claims[number] = letter_case, ImageFacts(known.status)


def _merged(known: ImageFacts, news: ImageFacts) -> ImageFacts:
    if news == NOTHING_KNOWN:
        return known
    if known.status is ImageStatus.ACTIVE is news.status and known.content is not None:
        is_weaker = news.content is None or (
            news.content.kind is HashKind.CHECKSUM and known.content.kind is HashKind.OS_HASH
        )
        return known if is_weaker else news
    return news
