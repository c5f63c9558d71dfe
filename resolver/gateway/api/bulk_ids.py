"""The ids of a bulk request: from a body to 16-byte ids, fast where all are plain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from resolver.errors import InvalidImageId, InvalidRequest, TooLarge, UnsupportedMediaType
from resolver.gateway.negotiation import JSON
from resolver.gateway.request_body import read_json
from resolver.models import format_id, letter_case_of, parse_id
from resolver.turns import in_turns

PLAIN_TYPES = ("", "text/plain", "application/x-www-form-urlencoded", "application/octet-stream")
"""Bodies of these types may be JSON or lines. curl calls every body x-www-form-urlencoded."""

DASHES_AT = (8, 13, 18, 23)


class BulkIds(NamedTuple):
    """The ids of a request, parsed."""

    image_ids: list[bytes]
    texts: Sequence[str]
    """The same, dashed and in lower case."""
    invalid: dict[int, Any]
    """Items that are not ids, by their position in the request."""
    letter_cases: dict[int, int]
    """Spellings with upper-case digits, by position among ``image_ids``."""


def parse_items(body: bytes, content_type: str, limit: int) -> Sequence[Any]:
    """The items of a body: a JSON array, ``{"ids": […]}``, or one per line. The work is bounded by
    ``limit``, the largest number of items, whatever the body's shape is.

    Raises:
        InvalidRequest: it is none of these.
        TooLarge: it has more items, or more values of whatever kind.
        UnsupportedMediaType: its type says that it is something else.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media in PLAIN_TYPES:
        is_json = body.lstrip()[:1] in (b"[", b"{")
    elif media == JSON:
        is_json = True
    else:
        raise UnsupportedMediaType(
            f"send the ids as {JSON} or as lines of text/plain, not {media[:60]!r}"
        )
    # Before it is parsed: each value but the first comes behind a comma, each line behind another.
    if body.count(b"," if is_json else b"\n") > limit:
        raise TooLarge(
            f"more than the {limit} ids (RESOLVER_BULK_LIMIT) that one request may have: split the "
            "request"
        )
    return _json_items(body) if is_json else _line_items(body)


def _line_items(body: bytes) -> list[str]:
    try:
        lines = body.decode("utf-8").removesuffix("\n").split("\n") if body else []
    except UnicodeDecodeError as error:
        raise InvalidRequest("the lines are not UTF-8 text") from error
    return [line.strip() for line in lines]


def _json_items(body: bytes) -> list[Any]:
    try:
        value = read_json(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            'the body is not JSON: send ["<id>", …], {"ids": ["<id>", …]} or one id per line'
        ) from error
    items = value.get("ids") if isinstance(value, dict) else value
    if not isinstance(items, list) or (isinstance(value, dict) and set(value) != {"ids"}):
        raise InvalidRequest('the JSON is neither ["<id>", …] nor {"ids": ["<id>", …]}')
    return items


async def parse_ids(items: Sequence[Any]) -> BulkIds:
    """The ids of a request's items: all at once where all are plain, else one by one, in turns with
    other tasks."""
    if (image_ids := _parse_plain(items)) is not None:
        return BulkIds(image_ids, items, {}, {})
    ids = BulkIds([], texts := [], {}, {})
    async for position, item in in_turns(enumerate(items)):
        try:
            image_id = parse_id(item) if isinstance(item, str) else None
        except InvalidImageId:
            image_id = None
        if image_id is None:
            ids.invalid[position] = item
            continue
        if letter_case := letter_case_of(item):
            ids.letter_cases[len(ids.image_ids)] = letter_case
        ids.image_ids.append(image_id)
        texts.append(format_id(image_id))
    return ids


def _parse_plain(items: Sequence[Any]) -> list[bytes] | None:
    """The ids if every item is a dashed UUID in lower case; else None.

    They are checked as one text, at a tenth of the cost of checking each: items of 36 characters,
    with dashes in their places and nowhere else, and hex digits everywhere else.
    """
    count = len(items)
    try:
        text = "".join(items)
    except TypeError:
        return None
    dashes = "-" * count
    if (
        any(map((36).__ne__, map(len, items)))
        or text.count("-") != 4 * count
        or any(text[at::36] != dashes for at in DASHES_AT)
        or text != text.lower()
    ):
        return None
    try:
        digits = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        return None
    if len(digits) != 16 * count:  # `fromhex` skips spaces
        return None
    return [digits[at : at + 16] for at in range(0, len(digits), 16)]
