"""The value of a field in a bucket: an image's owners as a few bytes.

A value is a sequence of *entries*. An entry is a base-128 varint (least significant group first) of
``number << 1``. Where a location spells the id with upper-case digits, the varint's lowest bit is
set and four bytes follow, one bit per hex digit (see `resolver.models.letter_case_of`). So one of
the first 63 locations takes one byte, one of the next 8,128 two.

An entry whose number is 0, or `FIRST_MARK` or more, is not an owner but a *mark*: it says what is
known of the image at the owners before it, back to the mark before. About owners behind the last
mark nothing is known.

==================================  ============================================================
mark                                the owners before it
==================================  ============================================================
number 0 (one byte)                 the image is active there
``status`` << 20 | 1 << 19 |        bits 20 to 22: the status (`STATUS_CODES`); bit 18: the kind of
``kind`` << 18 | ``bits`` >> 32,    hash; the other 18 bits and the four bytes: `CONTENT_BITS` bits
with 4 bytes ``bits``               that stand for the image's bytes, 0 where they are not known.
                                    7 bytes where it is active, 8 otherwise
==================================  ============================================================

Programs of format 1 know no marks. They take one for an owner that is registered nowhere, keep it
where they remove others, and add owners behind it: whatever they do, a mark stays true.

What the bytes are matters where an image has two owners or more. So `claim_images.lua` stores
``bits`` there only, and an image with one owner takes two bytes. Two owners that have the same
bytes share a mark: nine bytes in all. ``owners.lua`` reads the same form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import overload

from resolver.image_facts import Content, HashKind, ImageFacts, ImageStatus
from resolver.models import Owner

FIRST_MARK = 1 << 19
"""Numbers from here on belong to no location."""

CONTENT_BITS = 50
"""Among a million pairs of images with different bytes, the chance that the bits of any pair are
equal is below one in a billion: 10^6 / 2^50 = 0.9 * 10^-9."""

MAX_VALUE_BYTES = 16_384
"""Longest value that is read: more than a thousand owners with a mark each. Rendering the owners of
a longer one would keep other requests waiting."""

CONTENT_MARK_BYTES = 7
"""Length of the mark of an active image whose bytes are known."""

STATUS_CODES = {
    ImageStatus.ACTIVE: 0,
    ImageStatus.PENDING: 1,
    ImageStatus.DEACTIVATED: 2,
    ImageStatus.DEAD: 3,
    None: 4,
}
_STATUSES = {code: status for status, code in STATUS_CODES.items()}

ACTIVE_MARK = b"\x00"

_ACTIVE = ImageStatus.ACTIVE

_SIZE_FACTOR = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio: spreads a size over 64 bits (Knuth, TAOCP 3, 6.4)."""


def content_bits(content: Content) -> int:
    """The bits that stand for an image's bytes; never 0."""
    _, digest, size = content
    bits = int.from_bytes(digest)
    if len(digest) < 8:  # from `decode_owners`, or from `summarize`
        return bits
    if size:
        bits ^= size * _SIZE_FACTOR % 2**64
    return bits >> 64 - CONTENT_BITS or 1


def stored_content(content: Content) -> Content:
    """The same as `decode_owners` gives it back."""
    return Content(content.kind, content_bits(content).to_bytes(CONTENT_MARK_BYTES, "big"))


def _entry(number: int, rest: bytes) -> bytes:
    """An entry of this number; ``rest``: four bytes, or none."""
    left = number << 1 | bool(rest)
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out) + rest


def encode_owner(number: int, letter_case: int = 0) -> bytes:
    """One owner's entry."""
    return _entry(number, letter_case.to_bytes(4, "big") if letter_case else b"")


def encode_mark(facts: ImageFacts) -> bytes:
    """The mark that says this; empty where nothing is known."""
    status, content = facts
    if status is _ACTIVE and content is not None:  # nearly all of a listing: `_entry`, but faster
        bits = content_bits(content)
        high = bits >> 32
        head = (high & 0x3F) << 1 | (high & 0x1FC0) << 2 | high >> 13 << 16 | 0x408081
        return (head | content[0] << 21).to_bytes(3, "little") + (bits & 0xFFFFFFFF).to_bytes(4)
    if content is None:
        if status is ImageStatus.ACTIVE:
            return ACTIVE_MARK
        if status is None:
            return b""
        return _entry(STATUS_CODES[status] << 20 | FIRST_MARK, bytes(4))
    bits = content_bits(content)
    number = STATUS_CODES[status] << 20 | FIRST_MARK | content.kind << 18 | bits >> 32
    return _entry(number, (bits & 0xFFFFFFFF).to_bytes(4, "big"))


def sole_value(number: int, known: bytes) -> bytes:
    """The value of an image with one owner, as `claim_images.lua` makes it. ``known``: four bytes
    of letter case where there is one, and the owner's mark."""
    size = len(known)
    letter_case, mark = (b"", known) if size < 2 or size in (7, 8) else (known[:4], known[4:])
    # What the bytes are is not kept where there is one owner.
    return _entry(number, letter_case) + (ACTIVE_MARK if len(mark) == CONTENT_MARK_BYTES else mark)


def encode_owners(owners: Iterable[Owner]) -> bytes:
    """A value with these owners. Those of which nothing is known come last."""
    runs: dict[bytes, bytes] = {}
    for owner in owners:
        mark = encode_mark(ImageFacts(owner.status, owner.content))
        runs[mark] = runs.get(mark, b"") + encode_owner(owner.number, owner.letter_case)
    unmarked = runs.pop(b"", b"")
    return b"".join(run + mark for mark, run in runs.items()) + unmarked


def _facts_of_mark(number: int, rest: int) -> ImageFacts:
    if number == 0:
        return ImageFacts(ImageStatus.ACTIVE)
    status = _STATUSES.get(number >> 20)
    if number >> 20 not in _STATUSES:
        return ImageFacts()  # a mark of a newer version
    bits = (number & 0x3FFFF) << 32 | rest
    if not bits:
        return ImageFacts(status)
    digest = bits.to_bytes(CONTENT_MARK_BYTES, "big")
    return ImageFacts(status, Content(HashKind(number >> 18 & 1), digest))


def parse_owners(value: bytes) -> tuple[Owner, ...]:
    """The owners in the value of a field.

    Raises:
        ValueError: no version of this program writes such bytes.
    """
    if len(value) > MAX_VALUE_BYTES:
        raise ValueError(f"{len(value)} bytes of owners")
    owners: list[Owner] = []
    run: list[tuple[int, int]] = []
    at = 0
    while at < len(value):
        entry = shift = 0
        while True:
            if at >= len(value):
                raise ValueError(f"owners cut short: {value.hex()}")
            byte = value[at]
            at += 1
            entry |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        rest = 0
        if entry & 1:
            rest = int.from_bytes(value[at : at + 4], "big")
            at += 4
            if at > len(value):
                raise ValueError(f"owners cut short: {value.hex()}")
        number = entry >> 1
        if number == 0 or number >= FIRST_MARK:
            facts = _facts_of_mark(number, rest)
            owners += (Owner(*named, *facts) for named in run)
            run = []
        else:
            run.append((number, rest))
    owners += (Owner(*named) for named in run)
    return tuple(owners)


_parse_cached = lru_cache(maxsize=4096)(parse_owners)


def decode_owners(value: bytes) -> tuple[Owner, ...]:
    """As `parse_owners`, for values that repeat. Those with a mark for an image's bytes do not."""
    return _parse_cached(value) if len(value) < CONTENT_MARK_BYTES else parse_owners(value)


UNREADABLE_VALUE = b"\x80"
"""A value that cannot be read, in place of one that is too long or of another type."""

UNREADABLE = (Owner(-1),)
"""In place of the owners of an image whose value cannot be read. No location has this number."""


def lookup_owners(value: bytes) -> tuple[Owner, ...]:
    """The owners in a value that `summarize` returned."""
    try:
        return _lookup_cached(value)
    except ValueError:
        return UNREADABLE


@lru_cache(maxsize=4096)
def _lookup_cached(value: bytes) -> tuple[Owner, ...]:
    owners = parse_owners(value)
    if len(owners) > 1:  # a location that something else has written twice is one owner
        owners = tuple({owner.number: owner for owner in owners}.values())
    return owners


class OwnersList(Sequence[tuple[Owner, ...]]):
    """The owners of many images. They are decoded when they are needed: those of 10,000 images at
    20 locations as objects would keep the garbage collector busy for a third of a second."""

    def __init__(self, summaries: Sequence[bytes]) -> None:
        self._summaries = summaries

    def __len__(self) -> int:
        return len(self._summaries)

    @overload
    def __getitem__(self, at: int) -> tuple[Owner, ...]: ...
    @overload
    def __getitem__(self, at: slice) -> OwnersList: ...
    def __getitem__(self, at: int | slice) -> tuple[Owner, ...] | OwnersList:
        found = self._summaries[at]
        return lookup_owners(found) if isinstance(found, bytes) else OwnersList(found)

    def __iter__(self) -> Iterator[tuple[Owner, ...]]:
        return map(lookup_owners, self._summaries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # it may have any number of owners


def summarize(value: bytes) -> bytes:
    """The value with small numbers in place of the bits that stand for the image's bytes, in the
    order in which different ones come. What can be compared within the image stays the same, and
    images with the same owners have the same summary. So it can be shared and remembered."""
    if len(value) <= CONTENT_MARK_BYTES:
        return value
    if len(value) > MAX_VALUE_BYTES:
        return UNREADABLE_VALUE
    head, mark = value[:-CONTENT_MARK_BYTES], value[-CONTENT_MARK_BYTES:]
    if mark[0] & mark[1] & 0x80 and mark[0] & 1 and 0x40 <= mark[2] < 0x80 and _is_run(head):
        return head + _FIRST_CONTENT[mark[2] >> 5 & 1]
    try:
        owners = parse_owners(value)
    except ValueError:
        return value
    labels: dict[Content, int] = {}
    return encode_owners(
        owner
        if owner.content is None
        else owner._replace(
            content=Content(
                owner.content.kind,
                labels.setdefault(owner.content, len(labels) + 1).to_bytes(
                    CONTENT_MARK_BYTES, "big"
                ),
            )
        )
        for owner in owners
    )


_FIRST_CONTENT = tuple(
    encode_mark(ImageFacts(ImageStatus.ACTIVE, Content(kind, (1).to_bytes(7, "big"))))
    for kind in HashKind
)


@lru_cache(maxsize=4096)
def _is_run(head: bytes) -> bool:
    """Whether these bytes are whole entries of owners, without marks."""
    try:
        owners = parse_owners(head)
    except ValueError:
        return False
    return encode_owners(Owner(owner.number, owner.letter_case) for owner in owners) == head
