"""Sweeps in Redis: requested ones, how far those under way are, and what these have found."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from resolver.index.keys import Keys
from resolver.index.record_codec import (
    MAX_NUMBER,
    MAX_RECORD_BYTES,
    MIN_NUMBER,
    UnreadableRecord,
    parse_number,
    parse_record,
    record_to_json,
    to_json,
)
from resolver.index.redis.client import Command, RedisClient
from resolver.index.redis.redis_errors import DECODE_ERRORS
from resolver.index.redis.replies import pairs, parses_reply
from resolver.index.redis.scripts import load
from resolver.models import Progress
from resolver.turns import parts_of

FINISH_SWEEP_REQUEST = load("finish_sweep_request")

FINDINGS_BATCH = 1000
"""Members added to a set, or read from it, with one command."""

MAX_SWEEPS = 10_000
"""Sweeps that were requested, or are under way, that are read at most."""

MISSING, UPPERCASE = b"-", b"+"
"""First byte of a stored finding."""

FINDING_BYTES = 1 + 16 + 4
"""A finding: its kind, an image id, the letter case."""


class SweepRequest(NamedTuple):
    """A sweep that was requested."""

    confirm_shrink: bool
    at: float
    """Unix time: a sweep that began before does not fulfil it."""
    stored: bytes
    """The request as Redis has it."""


class SweepFindings(NamedTuple):
    """What the sweep under way has found so far, by image id."""

    missing_ids: dict[bytes, int]
    """Claimed and not listed, with the letter case claimed."""
    uppercase_ids: dict[bytes, int]
    """Listed with upper-case digits, and which."""


class SweepRecords:
    """The part of the registry that is about sweeps. Locations are named by number."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self.client = client
        self.keys = keys

    async def request_sweep(self, number: int, *, confirm_shrink: bool = False) -> None:
        """Asks the indexers to sweep a location now.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        request = to_json(
            {"at": time.time(), "confirm_shrink": confirm_shrink, "id": secrets.token_hex(4)}
        )
        await self.client.command("HSET", self.keys.sweep_requests, number, request)

    async def requested_sweeps(self) -> dict[int, SweepRequest]:
        """Requested sweeps by location number.

        Raises:
            IndexUnavailable: Redis does not answer, or has something else there.
        """
        return _parse_requests(await self.client.command("HGETALL", self.keys.sweep_requests))

    async def finish_sweep_request(self, number: int, request: SweepRequest) -> None:
        """The request is fulfilled. One made since remains."""
        await self.client.run(
            FINISH_SWEEP_REQUEST, [self.keys.sweep_requests], [number, request.stored]
        )

    async def progress(self) -> dict[int, Progress]:
        """Sweeps under way, by location number.

        Raises:
            IndexUnavailable: Redis does not answer, or has something else there.
        """
        return _parse_progress(await self.client.command("HGETALL", self.keys.progress))

    async def begin_progress(self, number: int, progress: Progress) -> None:
        """A sweep begins. Nothing of an earlier one remains."""
        await self.end_progress(number)
        await self.set_progress(number, progress)

    async def set_progress(
        self,
        number: int,
        progress: Progress,
        missing_ids: Mapping[bytes, int] | None = None,
        uppercase_ids: Mapping[bytes, int] | None = None,
    ) -> None:
        """Stores how far a sweep is, and what it has found since the last call."""
        findings = [
            kind + image_id + letter_case.to_bytes(4, "big")
            for kind, ids in ((MISSING, missing_ids), (UPPERCASE, uppercase_ids))
            for image_id, letter_case in (ids or {}).items()
        ]
        commands: list[Command] = [
            ("SADD", self.keys.sweep_findings(number), *part)
            for part in parts_of(findings, FINDINGS_BATCH)
        ]
        # The progress comes last, so that it never says more than the findings have.
        commands.append(("HSET", self.keys.progress, number, record_to_json(progress)))
        await self.client.pipeline(commands)

    async def end_progress(self, number: int) -> None:
        """The sweep has ended."""
        await self.client.pipeline(
            [
                ("HDEL", self.keys.progress, number),
                ("UNLINK", self.keys.sweep_findings(number)),
                ("UNLINK", self.keys.pinned_claims(number)),
            ]
        )

    async def sweep_findings(self, number: int) -> SweepFindings:
        """What the sweep under way has found so far.

        Raises:
            IndexUnavailable: Redis does not answer, or has something else there.
        """
        findings = SweepFindings({}, {})
        cursor = 0
        while True:
            reply = await self.client.command(
                "SSCAN", self.keys.sweep_findings(number), cursor, "COUNT", FINDINGS_BATCH
            )
            if not (cursor := _add_findings(reply, findings)):
                return findings

    async def pin_claim(self, number: int, image_id: bytes) -> None:
        """An operator claims this image by hand: a sweep under way must not release it."""
        await self.client.command("SADD", self.keys.pinned_claims(number), image_id)

    async def pinned_claims(self, number: int) -> set[bytes]:
        """Images that operators have claimed since the sweep under way began."""
        return _id_set(await self.client.command("SMEMBERS", self.keys.pinned_claims(number)))


@parses_reply
def _parse_requests(reply: Any) -> dict[int, SweepRequest]:
    return {number: _parse_request(text) for number, text in _by_number(reply)}


def _by_number(reply: Any) -> Iterator[tuple[int, bytes]]:
    """The rows of a hash whose fields are numbers of locations."""
    rows = ((parse_number(field), text) for field, text in pairs(reply).items())
    return islice(((number, text) for number, text in rows if number is not None), MAX_SWEEPS)


def _parse_request(text: bytes) -> SweepRequest:
    """One that this version cannot read still asks for a sweep, without a confirmation."""
    try:
        if len(text) > MAX_RECORD_BYTES:
            raise ValueError("it is too long")
        fields = json.loads(text)
        if MIN_NUMBER <= fields["at"] <= MAX_NUMBER:
            return SweepRequest(fields["confirm_shrink"] is True, float(fields["at"]), text)
        raise ValueError("its time is out of range")
    except (*DECODE_ERRORS, RecursionError):
        return SweepRequest(confirm_shrink=False, at=time.time(), stored=text)


@parses_reply
def _parse_progress(reply: Any) -> dict[int, Progress]:
    """Without those that this version cannot read: such a sweep begins from the start."""
    found = {}
    for number, text in _by_number(reply):
        with contextlib.suppress(UnreadableRecord):
            found[number] = parse_record(Progress, text)
    return found


@parses_reply
def _add_findings(reply: Any, findings: SweepFindings) -> int:
    """Adds one reply to SSCAN to the findings; returns the cursor, 0 at the end. A missing image
    that is overlooked here is not released, so that members of another form do no harm."""
    by_kind = {MISSING: findings.missing_ids, UPPERCASE: findings.uppercase_ids}
    for entry in reply[1]:
        if entry[:1] in by_kind and len(entry) == FINDING_BYTES:
            by_kind[entry[:1]][entry[1:17]] = int.from_bytes(entry[17:], "big")
    return int(reply[0])


@parses_reply
def _id_set(reply: Any) -> set[bytes]:
    return set(reply)
