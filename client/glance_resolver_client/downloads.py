"""Downloads: from the best owner, and from the next where that fails."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from glance_resolver_client.answers import Found, Owner
from glance_resolver_client.errors import DownloadError
from glance_resolver_client.exchange import (
    ExchangeError,
    Pause,
    Reply,
    Request,
    Steps,
    Work,
    Write,
    send,
    token_headers,
)
from glance_resolver_client.gateway_calls import Choice, GatewayCalls
from glance_resolver_client.image_record import (
    ImageRecord,
    ImageUrls,
    image_urls,
    read_record,
    record_request,
)
from glance_resolver_client.part_file import PartFile
from glance_resolver_client.retries import RETRIED_STATUSES, Backoff, retry_after

LocationToken = str | Callable[[Owner], str | None]
"""A Keystone token for the owners, or a function that says which token, if any, an owner gets."""

MAX_FRUITLESS_BREAKS = 3
"""Connections to one owner that may break in a row, each after fewer than `FRUITFUL_BYTES`."""

FRUITFUL_BYTES = 1 << 20

FINAL_STATUSES = frozenset({400, 401, 403, 404, 410, 501})
"""An owner that answers so is not asked again."""

STATUSES_WITHOUT_BYTES = ("pending", "dead")


@dataclass(frozen=True, slots=True)
class Download:
    """An image that was downloaded."""

    id: str
    path: Path
    size: int
    location: str
    """Where its last bytes are from."""
    hash_algo: str | None
    """With which algorithm it was verified; None if it was not."""
    hash_value: str | None


class OwnerError(Exception):
    """An owner does not deliver the image."""

    def __init__(self, text: str, *, final: bool, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.final = final
        self.retry_after = retry_after


class ImageDownload:
    """One download."""

    def __init__(
        self,
        calls: GatewayCalls,
        image_id: str | UUID,
        destination: Path,
        *,
        choice: Choice,
        token: str | None,
        location_token: LocationToken | None,
        verify: bool,
    ) -> None:
        self._calls = calls
        self._image_id = str(image_id)
        self._destination = destination
        self._choice = choice
        self._token = token
        self._location_token = location_token
        self._verify = verify
        self._failures: dict[str, str] = {}
        self._record: ImageRecord | None = None
        """Of the first owner that has one. Others are used if their hash is the same."""
        self._part: PartFile | None = None

    def steps(self) -> Steps[Download]:
        """Raises DownloadError, ImageAbsentError, ImageUnknownError, GatewayError, OSError, or
        ValueError for a token that no header can have."""
        backoff = Backoff(self._calls.retries)
        with ExitStack() as stack:
            while True:
                answer = yield from self._calls.resolve(self._image_id, self._choice, self._token)
                if self._failures and not isinstance(answer, Found):
                    break
                errors: list[OwnerError] = []
                for owner in answer.require().owners:
                    try:
                        return (yield from self._from_owner(owner, stack))
                    except OwnerError as error:
                        self._fail(owner, error)
                        errors.append(error)
                waits = [error.retry_after for error in errors if not error.final]
                if waits:
                    named = [wait for wait in waits if wait is not None]
                    pause = backoff.next_pause(min(named, default=None))
                    if pause is None:
                        break
                    yield Pause(pause)
                elif self._choice.fresh:
                    break
                # What the index knows led nowhere: let the gateway ask the locations themselves.
                self._choice = replace(self._choice, fresh=True)
        raise DownloadError(self._image_id, self._failures)

    def _fail(self, owner: Owner, error: OwnerError) -> None:
        self._failures[owner.location] = str(error)
        if error.final:
            exclude = dict.fromkeys([*self._choice.exclude, owner.location])
            self._choice = replace(self._choice, exclude=tuple(exclude))

    def _from_owner(self, owner: Owner, stack: ExitStack) -> Steps[Download]:
        """Raises OwnerError."""
        if owner.status in STATUSES_WITHOUT_BYTES:
            final = owner.status == "dead"
            raise OwnerError(f"the image is {owner.status} there", final=final)
        try:
            urls = image_urls(owner.url)
        except ExchangeError as error:
            raise OwnerError(str(error), final=True) from error
        token = self._location_token
        headers = token_headers(token(owner) if callable(token) else token)
        record = yield from self._read_record(urls, headers)
        if self._record is None:
            self._record = record
        elif not record.agrees_with(self._record):
            raise OwnerError("its bytes are not known to be those of the others", final=True)
        if self._part is None:
            self._part = stack.enter_context(PartFile(self._destination, self._record))
        yield from self._read_verified(self._part, urls, headers)
        yield Work(self._part.keep)
        algo, value = self._record.verifiable_hash() or (None, None)
        return Download(
            self._image_id, self._destination, self._part.size, owner.location, algo, value
        )

    def _read_record(self, urls: ImageUrls, headers: dict[str, str]) -> Steps[ImageRecord]:
        try:
            reply = yield from send(record_request(urls, headers))
            if reply.status != 200:
                raise _refusal(reply)
            record = read_record(urls, reply)
        except ExchangeError as error:
            raise OwnerError(str(error), final=False) from error
        if self._verify and record.verifiable_hash() is None:
            raise OwnerError("it shows no checksum to verify the bytes with", final=True)
        return record

    def _read_verified(
        self, part: PartFile, urls: ImageUrls, headers: dict[str, str]
    ) -> Steps[None]:
        """Raises OwnerError."""
        while True:
            from_others = part.size > 0
            yield from _read_rest(part, urls, headers)
            if part.is_right:
                return
            part.clear()
            if not from_others:
                raise OwnerError("its bytes do not have the image's checksum", final=True)
            # It is not known whose bytes are wrong: all of them from this owner.


def _read_rest(part: PartFile, urls: ImageUrls, headers: dict[str, str]) -> Steps[None]:
    """Reads on where the part ends, again and again while connections break.

    Raises:
        OwnerError: it refuses, or brings nothing more.
    """
    breaks = 0
    while not part.is_complete:
        start = part.size
        try:
            yield from _read_once(part, urls, headers)
        except ExchangeError as error:
            if part.is_complete:
                return  # it broke after the last byte
            breaks = 0 if part.size - start >= FRUITFUL_BYTES else breaks + 1
            if part.size == start or breaks > MAX_FRUITLESS_BREAKS:
                raise OwnerError(str(error), final=False) from error
        else:
            return


def _read_once(part: PartFile, urls: ImageUrls, headers: dict[str, str]) -> Steps[None]:
    reply = yield from send(_file_request(part, urls, headers))
    if reply.status not in (200, 206):
        raise _refusal(reply)
    if part.has_known_size and not part.is_complete:
        raise ExchangeError("its response ended early")


def _file_request(part: PartFile, urls: ImageUrls, headers: dict[str, str]) -> Request:
    start = part.size
    if start:
        headers = {**headers, "Range": f"bytes={start}-"}

    def receive(head: Reply) -> Write | None:
        if head.headers.get("content-encoding", "identity") != "identity":
            raise ExchangeError("it compresses the bytes, which was not asked for")
        if head.status == 206 and _range_start(head) != start:
            raise ExchangeError("it sends another range than was asked for")
        if head.status == 206:
            return part.write
        # A server without ranges sends all: what is there already is skipped.
        return _Skipping(start, part.write) if head.status == 200 else None

    return Request("GET", urls.file, headers, receive=receive)


class _Skipping:
    def __init__(self, skipped: int, write: Write) -> None:
        self._left = skipped
        self._write = write

    def __call__(self, part: bytes) -> None:
        rest = part[self._left :]
        self._left -= len(part) - len(rest)
        if rest:
            self._write(rest)


def _range_start(head: Reply) -> int | None:
    """Of `Content-Range` (RFC 9110, 14.4)."""
    match = re.match(r"bytes ([0-9]{1,18})-", head.headers.get("content-range", ""))
    return int(match[1]) if match else None


def _refusal(reply: Reply) -> OwnerError:
    text = f"it answered {reply.status}"
    if 300 <= reply.status < 400:
        text = f"{text}, a redirect, which is not followed"
    if reply.status == 204:
        text = f"{text}: it has no bytes of the image"
    wait = retry_after(reply.headers) if reply.status in RETRIED_STATUSES else None
    return OwnerError(text, final=reply.status in FINAL_STATUSES, retry_after=wait)
