"""A Glance server's whole listing, in UUID order, page by page.

One request shows no server's every image: hidden images need a pass of their own, and community
images of other projects need ``visibility=all``, which Glance before Queens refuses (400), so
there they need a pass too. The passes are merged as sorted streams.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resolver.errors import InvalidImageId, LocationUnavailable
from resolver.glance.glance_server import Server
from resolver.glance.probe import has_image
from resolver.models import letter_case_of, minor_version, parse_id

PAGE = 1000
"""Images in a page; Glance caps it at 1,000 silently, and smaller pages cost it as much each."""

END = b"\xff" * 17
"""Sorts behind every id."""

CONFIRM = 99
"""Ids in one ``id=in:`` question beside the one known to be there."""

MIN_MINOR_ID_IN = 11
"""Servers before v2.11 are asked about one image at a time."""


@dataclass(frozen=True, slots=True)
class Page:
    """Images of a listing, merged from its passes.

    ``images`` maps each id to how it is spelt (see `resolver.models.letter_case_of`). Every id in
    lower case up to ``front`` has now been listed; those spelt otherwise come when they come,
    since where they stand depends on the server's database. From ``markers`` and ``front`` the
    listing can be resumed: nothing behind ``front`` is left out then.
    """

    images: Mapping[bytes, int]
    front: bytes
    markers: tuple[str, ...] = ()
    asked: float = 0.0
    """When the first of them was asked for, as `time.monotonic` has it."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where an earlier listing of the same server had come to."""

    front: bytes
    markers: tuple[str, ...]


@dataclass(slots=True)
class _Pass:
    """One stream of pages: a request repeated with the last id as marker."""

    path: str
    params: Mapping[str, str]
    marker: str = ""
    front: bytes = b""
    """The last id in lower case so far; `END` when the stream is over."""
    previous: list[str] = field(default_factory=list)
    odd: set[bytes] = field(default_factory=set)
    """Ids spelt otherwise so far."""
    asked: str = ""
    """The marker that the latest page was asked with: all before it lies before every front."""
    resumed: bool = False
    """The next page may hold nothing new."""

    async def next(self, server: Server) -> dict[bytes, int]:
        """The next page; empty, and ``front`` is `END`, when there is none.

        Raises:
            LocationUnavailable: the answer is no page of this listing.
        """
        self.asked = self.marker
        reply = await server.ask(self.path, self._query())
        # A marker deleted since is 400 for all but admins, one hidden since 403: the ids before
        # it will do.
        while reply.status in (400, 403) and self.previous:
            self.marker = self.previous.pop()
            reply = await server.ask(self.path, self._query())
        if reply.status != 200:
            raise LocationUnavailable(
                f"listing images answered {reply.status}",
                code="bad-listing",
                extra={"status": reply.status},
            )
        spelt = _ids(reply.json())
        if not spelt:
            self.front = END
            return {}
        images: dict[bytes, int] = {}
        seen = self.front
        for text in spelt:
            image_id, letter_case = parse_listed(text)
            if letter_case:
                if image_id in self.odd:
                    continue
                self.odd.add(image_id)
            elif image_id <= self.front:
                continue  # again, after a lost marker
            elif image_id <= seen:
                raise LocationUnavailable(
                    f"the listing is out of order at {text}", code="bad-listing"
                )
            else:
                seen = image_id
            images[image_id] = letter_case
        if not images and not self.resumed:
            raise LocationUnavailable(
                f"the listing repeats itself at {spelt[-1]}", code="bad-listing"
            )
        self.front, self.marker, self.previous = seen, spelt[-1], spelt[-6:-1]
        self.resumed = False
        return images

    def _query(self) -> dict[str, str]:
        return {**self.params, **({"marker": self.marker} if self.marker else {})}


def rows_of(document: Any) -> list[dict[str, Any]]:
    """The images of a listing, each with an id.

    Raises:
        LocationUnavailable: it is no listing.
    """
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise LocationUnavailable("the listing has no `images`", code="junk")
    if not all(isinstance(image, dict) and "id" in image for image in images):
        raise LocationUnavailable("the listing has an image without id", code="junk")
    return images


def _ids(document: Any) -> list[Any]:
    return [image["id"] for image in rows_of(document)]


def parse_listed(text: Any) -> tuple[bytes, int]:
    """A listed image's id, and how it is spelt.

    Raises:
        LocationUnavailable: it is no id.
    """
    try:
        return parse_id(text), letter_case_of(text)
    except (InvalidImageId, TypeError, AttributeError) as error:
        raise LocationUnavailable(
            f"the listing has {text!r} for an id"[:200], code="junk"
        ) from error


V1 = {"limit": str(PAGE), "sort_key": "id", "sort_dir": "asc", "is_public": "None"}
V2 = {"limit": str(PAGE), "sort": "id:asc"}


async def list_images(
    server: Server, versions: tuple[str, ...], resume: Resume | None = None
) -> AsyncIterator[Page]:
    """All images the credential sees, ids ascending. The last page's ``front`` is `END`.

    Raises:
        LocationUnavailable: an answer was not a page of a sorted listing.
    """
    passes = (
        await v2_passes(server) if server.uses_v2(versions) else [_Pass("/v1/images/detail", V1)]
    )
    if resume is not None:
        if len(resume.markers) != len(passes):
            raise LocationUnavailable(
                "the server lists otherwise than before", code="cannot-resume"
            )
        for one, marker in zip(passes, resume.markers, strict=True):
            one.front, one.marker, one.resumed = resume.front, marker, True
    async for page in merge(server, passes):
        yield page


async def v2_passes(server: Server, **filters: str) -> list[_Pass]:
    """The passes that show every image of a v2 server, or those that pass the filters.

    Raises:
        LocationUnavailable: the server failed while asked what it knows.
    """
    params = {**V2, **filters}
    if await _takes(server, {"visibility": "all"}):
        params["visibility"] = "all"
        others = {"os_hidden": "true"}
    elif await _takes(server, {"visibility": "community"}):
        others = {"visibility": "community"}
    else:
        return [_Pass("/v2/images", params)]
    return [_Pass("/v2/images", params), _Pass("/v2/images", {**params, **others})]


async def _takes(server: Server, params: Mapping[str, str]) -> bool:
    """Whether the server knows a filter, which it says by not answering 400."""
    return (await server.ask("/v2/images", {**params, "limit": "1"})).status != 400


async def merge(server: Server, passes: Sequence[_Pass]) -> AsyncIterator[Page]:
    """Pages of several sorted streams as one."""
    waiting: dict[bytes, int] = {}
    asked = 0.0
    while (behind := min(passes, key=lambda p: p.front)).front != END:
        if not waiting:
            asked = time.monotonic()
        waiting.update(await behind.next(server))
        front = min(p.front for p in passes)
        ready = {
            image_id: letter_case
            for image_id, letter_case in waiting.items()
            if letter_case or image_id <= front
        }
        for image_id in ready:
            del waiting[image_id]
        yield Page(ready, front, tuple(p.asked for p in passes), asked)


async def still_there(
    server: Server, versions: tuple[str, ...], ids: Mapping[str, bytes], known: str | None
) -> set[bytes]:
    """Which of these ids (as spelt there) the server still has, asked directly.

    ``known`` is an id that was just listed. It goes along in every question about many: a server
    that does not understand such a question leaves it out too, and is then asked one by one.

    Raises:
        LocationUnavailable: it gave no clear answer.
    """
    v2 = server.uses_v2(versions)
    todo = list(ids)
    there: set[bytes] = set()
    if v2 and known and minor_version(versions) >= MIN_MINOR_ID_IN:
        while todo:
            some = todo[:CONFIRM]
            found = await _among(server, [known, *some])
            if known not in found:
                break
            there |= {ids[text] for text in some if text in found}
            del todo[:CONFIRM]
    for text in todo:
        if await has_image(server, versions, text):
            there.add(ids[text])
    return there


async def _among(server: Server, ids: Sequence[str]) -> set[str]:
    """Which of these the server says it has; none where its answer is not the whole one."""
    # One more than can come: then only a server with smaller pages says that there is a `next`.
    query = {"id": f"in:{','.join(ids)}", "visibility": "all", "limit": str(len(ids) + 1)}
    found: set[str] = set()
    for hidden in ({}, {"os_hidden": "true"}):
        reply = await server.ask("/v2/images", {**query, **hidden})
        if reply.status != 200:
            return set()
        document = reply.json()
        found.update(text for text in _ids(document) if isinstance(text, str))
        if "next" in document:
            return set()
    return found
