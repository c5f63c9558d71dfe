"""Which of an image's rows is shown: that of its best owner, among those that list the image.

An image may be at several locations, and its rows may lie far apart, since each location has its
own times. The index knows an image's owners. Whether a better one lists it to this client, with
these filters, only that owner knows: it is asked, unless its row has been read already.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from resolver.errors import InvalidImageId
from resolver.image_facts import ImageStatus
from resolver.listing.location_stream import LocationStream
from resolver.listing.markers import MAX_QUESTIONS, Questions
from resolver.listing.rows import Row
from resolver.models import parse_stored_id

Spellings = Mapping[int, str]
"""The locations that have an image, by number, each with the image's id as it is spelled there."""

ReadOwners = Callable[[Sequence[bytes]], Awaitable[Sequence[Spellings] | None]]
"""What the index knows of each image; None where it does not answer."""

AskListed = Callable[
    [Sequence[tuple[LocationStream, Sequence[str]]]], Awaitable[Sequence[Iterable[Row]]]
]
"""The rows of the images with these ids that each location lists, for the same client and filters.
All are asked at the same time. There are none where the client is content without a location that
fails."""


class DrawnRow(NamedTuple):
    """A row in its place in the merged order."""

    stream: LocationStream
    """The location that it comes from."""
    row: Row
    taken_before: str | None
    """The id of the location's row before it; see `LocationStream.give_back`."""


class ImageOwners:
    """What one request knows of the owners of the images that it has read."""

    def __init__(
        self,
        streams: Iterable[LocationStream],
        read_owners: ReadOwners,
        ask: AskListed,
        *,
        names_only_listed: bool = False,
    ) -> None:
        """``names_only_listed``: see `Lister`."""
        self._streams = {stream.number: stream for stream in streams}
        self._read_owners = read_owners
        self._ask = ask
        self._names_only_listed = names_only_listed
        self._listed: dict[str, dict[int, ImageStatus | None]] = defaultdict(dict)
        """Of each image: the locations that list it, and its status there."""
        self._not_listed: set[tuple[str, int]] = set()
        """Images and locations that were asked, and do not list them."""
        self._open: set[tuple[str, int]] = set()
        """The images and locations among these whose answer has not arrived."""
        self._in_index: dict[str, Spellings] = {}
        """What the index knows, as far as it was read."""

    def record_listed(self, stream: LocationStream, rows: Iterable[Row]) -> None:
        """A location lists these rows."""
        for row in rows:
            self._listed[row.image][stream.number] = row.status

    async def names_where_best(self, drawn: Sequence[DrawnRow]) -> list[str]:
        """For each row the names of its image's owners, best first and separated by commas; empty
        where it is another location's row that is shown."""
        known = await self._known_owners(drawn)
        if known is None:  # any location may list them
            everywhere = [dict.fromkeys(self._streams, each.row.id) for each in drawn]
            await self._ask_better(drawn, everywhere)
            return [self._names(stream, row, {}) for stream, row, _ in drawn]
        await self._ask_better(drawn, known)
        return [
            self._names(stream, row, {} if self._names_only_listed else owners)
            for (stream, row, _), owners in zip(drawn, known, strict=True)
        ]

    async def ask_early(self, drawn: Sequence[DrawnRow]) -> None:
        """Asks what `names_where_best` would, of rows that it may be asked about. The answers must
        be awaited before it is."""
        if (known := await self._known_owners(drawn)) is not None:
            await self._ask_better(drawn, known)

    async def ask_expected(self, expected: Mapping[int, Sequence[str]]) -> None:
        """Asks what an earlier page expected that `names_where_best` would ask. The answers must be
        awaited before it is."""
        known = {n: {text.lower(): text for text in ids} for n, ids in expected.items()}
        open_to_ask = {n for n, stream in self._streams.items() if not stream.failure}
        await self._ask_all({n: texts for n, texts in known.items() if texts and n in open_to_ask})

    async def read_index(self, drawn: Sequence[DrawnRow]) -> None:
        """Reads what the index knows of these rows' images, so that it need not be read again."""
        await self._known_owners(drawn)

    def questions_about(
        self, rows: Sequence[DrawnRow], wanted: int, read: Set[tuple[str, int]], *, is_end: bool
    ) -> Questions:
        """What must be asked to show the first ``wanted`` of these rows, as far as that is known.

        Args:
            read: images and locations whose rows are read anyway.
            is_end: whether there are no more rows.
        """
        ids: defaultdict[int, list[str]] = defaultdict(list)
        count = 0
        for stream, row, _ in rows:
            if not wanted:
                break
            if row.image not in self._in_index and _image_id(row):
                return Questions(ids)
            owners = self._in_index.get(row.image, {})
            better = [n for n in owners if self._may_be_better(stream, row, n)]
            asked = [number for number in better if (row.image, number) not in read]
            count += len(asked)
            if count > MAX_QUESTIONS:
                return Questions(ids)
            for number in asked:
                ids[number].append(owners[number])
            wanted -= not better
        return Questions(ids, are_all=is_end or not wanted)

    async def count_certain(self, drawn: Sequence[DrawnRow]) -> int:
        """How many of these rows are shown whatever other locations answer; all where the index
        does not say which to ask."""
        known = await self._known_owners(drawn)
        if known is None:
            return len(drawn)
        return sum(
            self._ranked(row)[0] is stream
            and not any(
                (row.image, number) in self._open or self._must_ask(stream, row, number)
                for number in owners
            )
            for (stream, row, _), owners in zip(drawn, known, strict=True)
        )

    async def _known_owners(self, drawn: Sequence[DrawnRow]) -> Sequence[Spellings] | None:
        """The locations that have each row's image; None where the index does not answer."""
        unread = {
            each.row.image: image_id
            for each in drawn
            if each.row.image not in self._in_index and (image_id := _image_id(each.row))
        }
        found = await self._read_owners([*unread.values()])
        if found is None:
            return None
        self._in_index.update(zip(unread, found, strict=True))
        return [self._in_index.get(each.row.image, {}) for each in drawn]

    async def _ask_better(self, drawn: Sequence[DrawnRow], known: Sequence[Spellings]) -> None:
        """Asks the better ones among the owners of each row's image whether they list it."""
        questions: dict[int, dict[str, str]] = defaultdict(dict)
        for (stream, row, _), owners in zip(drawn, known, strict=True):
            for number, text in owners.items():
                if self._must_ask(stream, row, number):
                    questions[number][row.image] = text
        await self._ask_all(questions)

    def _may_list(self, number: int, image: str) -> bool:
        """Whether it is not known that a location does not list an image."""
        stream = self._streams.get(number)
        if stream is None or stream.failure or (image, number) in self._not_listed:
            return False
        return not stream.was_read_whole

    def _must_ask(self, stream: LocationStream, row: Row, number: int) -> bool:
        """Whether a location may list the image of another's row, and would then be the better."""
        if number in self._listed[row.image] or not self._may_list(number, row.image):
            return False
        return self._may_be_better(stream, row, number)

    def _may_be_better(self, stream: LocationStream, row: Row, number: int) -> bool:
        """Whether a location's row of an image, if it has one, may be shown in place of this."""
        if number not in self._streams or self._streams[number].failure:
            return False
        image_id = _image_id(row)
        best_case = self._streams[number].rank(image_id, ImageStatus.ACTIVE)
        return best_case < stream.rank(image_id, row.status)

    async def _ask_all(self, questions: Mapping[int, Mapping[str, str]]) -> None:
        """``questions``: the ids to ask each location about, by image."""
        if not questions:
            return
        asked = [(self._streams[n], list(texts.values())) for n, texts in questions.items()]
        new = {(image, number) for number, texts in questions.items() for image in texts}
        self._not_listed |= new
        self._open |= new
        for (stream, _), rows in zip(asked, await self._ask(asked), strict=True):
            self.record_listed(stream, rows)
        self._open -= new

    def _names(self, stream: LocationStream, row: Row, owners: Spellings) -> str:
        listed = self._listed[row.image]
        ranked = self._ranked(row)
        if ranked[0] is not stream:
            return ""
        others = sorted(
            self._streams[number].view.name
            for number in owners
            if number not in listed and self._may_list(number, row.image)
        )
        return ",".join([*(lists.view.name for lists in ranked), *others])

    def _ranked(self, row: Row) -> list[LocationStream]:
        """The locations that are known to list a row's image, best first."""
        listed = self._listed[row.image]
        if len(listed) == 1:  # nearly all: to rank takes time
            return [self._streams[number] for number in listed]
        image_id = _image_id(row)
        return sorted(
            (self._streams[number] for number in listed),
            key=lambda lists: lists.rank(image_id, listed[lists.number]),
        )


def _image_id(row: Row) -> bytes | None:
    """None for an id that is not a UUID, as some images from before UUIDs have."""
    try:
        return parse_stored_id(row.id)[0]
    except InvalidImageId:
        return None
