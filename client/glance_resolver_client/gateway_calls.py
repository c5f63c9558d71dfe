"""Calls to the gateway, as steps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from uuid import UUID

from glance_resolver_client.answers import Answer, Invalid, parse_answer
from glance_resolver_client.errors import GatewayError, GatewayUnavailableError
from glance_resolver_client.exchange import (
    ExchangeError,
    Pause,
    Reply,
    Request,
    Steps,
    send,
    token_headers,
)
from glance_resolver_client.retries import RETRIED_STATUSES, Backoff, Retries, retry_after

IDS_PER_REQUEST = 1000
"""Ids in one ``POST /resolve``, and images on a page of a lookup. Gateways allow 10,000 unless
RESOLVER_BULK_LIMIT says less."""

MAX_PAGES = 1000
"""Of a lookup: a million images."""

_NEXT_LINK = re.compile(r'<(/[!-;=?-~]*)>; rel="next"', re.ASCII)
"""A path of the same gateway (RFC 8288): no lookup is continued on another host."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which owners are wanted."""

    region: str | None = None
    exclude: Sequence[str] = ()
    fresh: bool = False

    def query(self) -> list[tuple[str, str]]:
        values = {
            "region": self.region,
            "exclude": ",".join(self.exclude),
            "fresh": "1" if self.fresh else None,
        }
        return [(name, value) for name, value in values.items() if value]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the images that match."""

    answers: list[Answer]
    next_target: str | None


class GatewayCalls:
    """The calls of one gateway."""

    def __init__(self, url: str, retries: Retries) -> None:
        """Raises ValueError if the URL is not http or https, or has a password or a query."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the gateway's URL must begin with http:// or https://: {url!r}")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("the gateway's URL must have no user, password, query or fragment")
        self.url = url.rstrip("/")
        self.retries = retries

    def resolve(
        self, image_id: str | UUID, choice: Choice, token: str | None = None
    ) -> Steps[Answer]:
        """Raises GatewayError."""
        target = f"/resolve/{quote(str(image_id), safe='')}{_suffix(choice.query())}"
        reply = yield from self._send("GET", target, token_headers(token))
        document = _decoded(reply)
        if isinstance(document, dict) and "outcome" in document:
            answer = parse_answer(document, retry_after(reply.headers))
            _check_image(answer, str(image_id))
            return answer
        raise self._error(reply)

    def resolve_chunk(
        self, ids: Sequence[str], choice: Choice, token: str | None = None
    ) -> Steps[list[Answer]]:
        """An answer for each id, in their order. Raises GatewayError."""
        headers = {"Content-Type": "application/json", **token_headers(token)}
        content = json.dumps(list(ids)).encode()
        target = f"/resolve{_suffix(choice.query())}"
        reply = yield from self._send("POST", target, headers, content)
        answers = self._answers(reply)
        if len(answers) != len(ids):
            raise GatewayError(f"the gateway sent {len(answers)} answers for {len(ids)} ids")
        for answer, image_id in zip(answers, ids, strict=True):
            _check_image(answer, image_id)
        return answers

    def lookup_page(self, target: str, token: str | None) -> Steps[Page]:
        """One page of the images that match. Raises GatewayError."""
        reply = yield from self._send("GET", target, token_headers(token))
        link = _NEXT_LINK.fullmatch(reply.headers.get("link", ""))
        return Page(self._answers(reply), link[1] if link else None)

    def _send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Steps[Reply]:
        """The response, the last one where retries did not help.

        Raises:
            GatewayUnavailableError: there was none.
        """
        headers = {"Accept": "application/json", **(headers or {})}
        request = Request(method, self.url + target, headers, content)
        backoff = Backoff(self.retries)
        while True:
            try:
                reply = yield from send(request)
            except ExchangeError as error:
                pause = backoff.next_pause(None)
                if pause is None:
                    text = f"the gateway at {self.url} does not answer: {error}"
                    raise GatewayUnavailableError(text) from error
            else:
                if reply.status not in RETRIED_STATUSES:
                    return reply
                pause = backoff.next_pause(retry_after(reply.headers))
                if pause is None:
                    return reply
            yield Pause(pause)

    def _answers(self, reply: Reply) -> list[Answer]:
        documents = _decoded(reply)
        if reply.status != 200 or not isinstance(documents, list):
            raise self._error(reply)
        return [parse_answer(document) for document in documents]

    def _error(self, reply: Reply) -> GatewayError:
        if place := reply.headers.get("location"):
            text = f"{self.url} redirects to {place}, which is not followed: give the URL of the "
            return GatewayError(f"{text}gateway itself", status=reply.status)
        document = _decoded(reply)
        document = document if isinstance(document, dict) else {}
        code = document.get("code")
        text = str(document.get("detail") or f"{self.url} answered {reply.status}")
        if "code" not in document:
            text = f"{text}, and not as a glance-resolver does: check its URL"
        if reply.status in RETRIED_STATUSES:
            return GatewayUnavailableError(
                text, status=reply.status, code=code, retry_after=retry_after(reply.headers)
            )
        return GatewayError(text, status=reply.status, code=code)


def endless_lookup_error() -> GatewayError:
    """The error for a lookup with more than `MAX_PAGES`."""
    return GatewayError("the gateway's list of images does not end")


def _check_image(answer: Answer, asked: str) -> None:
    """Raises GatewayError where an answer is about another image than the one that was asked for: a
    cache in between may have mixed them up."""
    try:
        is_same = isinstance(answer, Invalid) or UUID(answer.id) == UUID(asked)
    except ValueError:
        is_same = False
    if not is_same:
        raise GatewayError(f"the gateway was asked for image {asked}, and answered about another")


def chunks(ids: Iterable[str | UUID], size: int) -> Iterator[list[str]]:
    """Raises ValueError unless the size is positive."""
    if size < 1:
        raise ValueError("chunk_size must be 1 or more")
    texts = (str(image_id) for image_id in ids)
    while chunk := list(islice(texts, size)):
        yield chunk


def lookup_target(
    *,
    name: str | None,
    os_hash_value: str | None,
    checksum: str | None,
    tags: Iterable[str],
    visibility: str | None,
    choice: Choice,
) -> str:
    """Where the first page is. Raises ValueError if nothing says which images are meant."""
    wanted = {"name": name, "os_hash_value": os_hash_value, "checksum": checksum}
    query = [(key, value) for key, value in wanted.items() if value is not None]
    query += [("tag", tag) for tag in tags]
    if not query:
        raise ValueError("give a name, an os_hash_value, a checksum or a tag")
    if visibility:
        query.append(("visibility", visibility))
    return f"/resolve{_suffix([*query, *choice.query(), ('limit', str(IDS_PER_REQUEST))])}"


def _suffix(query: list[tuple[str, str]]) -> str:
    return f"?{urlencode(query)}" if query else ""


def _decoded(reply: Reply) -> Any:
    """The JSON document of a response; None where it has none."""
    try:
        return json.loads(reply.body)
    except (ValueError, RecursionError):
        return None
