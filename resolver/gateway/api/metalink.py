"""An image's bytes as a Metalink (RFC 5854): where they are, their size and their hashes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from html import escape

from resolver import __version__
from resolver.errors import LocationUnavailable, NoCounterpart
from resolver.gateway.api.image_reads import (
    MAX_DUPLICATES,
    METALINK,
    ImageRead,
    byte_targets,
    owner_headers,
)
from resolver.gateway.problem import raise_unless_found
from resolver.gateway.reply import NO_STORE, Reply
from resolver.glance import ImageRecord, ImageRecords
from resolver.image_facts import STATUS_ORDER
from resolver.models import format_id
from resolver.resolution import Answer, ImageOwner
from resolver.resolution.prober import ChargeCallback

VARY = "Accept, X-Auth-Token"

Target = tuple[ImageOwner, str]
"""An owner, and the URL of the image's bytes there."""


async def metalink_reply(
    read: ImageRead,
    answer: Answer,
    records: ImageRecords | None,
    charge: ChargeCallback,
    domain: str | None,
) -> Reply:
    """The Metalink about an image.

    It names the best owner that shows the image to this client, and those that are known to have
    the same bytes: by the hashes that they show this client, or else by the index. Size and hashes
    are those that the first owner shows; without an answer there are none.

    Args:
        records: asks owners with the client's token; None where no location may be asked.
        domain: that of the client's token, which goes to no other owners; None: it is not known.

    Raises:
        ImageAbsent: there is no owner to name.
        ImageUnknown: it is not known whether there is one that has the bytes.
        ImagePending, ImageDead: no owner has the bytes.
        NoCounterpart: no owner serves an API that has them.
        TooManyRequests: from ``charge``.
    """
    raise_unless_found(answer, VARY)
    text = format_id(answer.image_id)
    targets = byte_targets(answer, text, https=read.preferences.https)[: 1 + MAX_DUPLICATES]
    if not targets:
        names = ", ".join(owner.name for owner in answer.owners)
        raise NoCounterpart(f"{names} serves neither v1 nor v2", extra=answer.as_json())
    found: Mapping[int, ImageRecord | LocationUnavailable] = {}
    if records is not None:
        charge(len(targets))
        found = await _ask(records, read, answer, targets, text, domain)
    refused = {n for n, shown in found.items() if _is_refusal(shown)}
    answered = {n: shown for n, shown in found.items() if isinstance(shown, ImageRecord)}
    if usable := {n for n, shown in answered.items() if STATUS_ORDER[shown.status] == 0}:
        refused |= answered.keys() - usable  # they show a later status than the index has
    if answered:
        targets = [target for target in targets if target[0].number not in refused]
        targets.sort(key=lambda target: target[0].number not in answered)
    best = targets[0][0]
    same = [
        target
        for target in targets
        if target[0] is best or _has_same_bytes(best, target[0], answered)
    ]
    record = answered.get(best.number, ImageRecord(None, {}))
    headers = {**NO_STORE, "Vary": VARY, "Content-Type": METALINK, **owner_headers(best.view)}
    urls = [url for _, url in same]
    return Reply(200, headers, _document(text, record, urls).encode(), str(answer.outcome))


def _has_same_bytes(
    best: ImageOwner, owner: ImageOwner, answered: Mapping[int, ImageRecord]
) -> bool:
    """Whether an owner is known to have the same bytes as the best one."""
    here, there = answered.get(best.number), answered.get(owner.number)
    if here and there and (same := here.same_bytes(there)) is not None:
        return same
    return owner.has_bytes_of(best)


async def _ask(
    records: ImageRecords,
    read: ImageRead,
    answer: Answer,
    targets: list[Target],
    text: str,
    domain: str | None,
) -> dict[int, ImageRecord | LocationUnavailable]:
    """What each owner shows this client, by location number. A token is sent to owners of its own
    domain only."""
    if read.token:
        targets = [target for target in targets if target[0].view.location.domain == domain]

    async def ask(owner: ImageOwner) -> ImageRecord | LocationUnavailable:
        serves = owner.view.serves
        try:
            return await records.read(
                owner.view.location,
                use_v1=serves is not None and not serves[1],
                text=owner.spell(answer.image_id, text),
                token=read.token,
            )
        except LocationUnavailable as error:
            return error

    shown = await asyncio.gather(*(ask(owner) for owner, _ in targets))
    return {owner.number: one for (owner, _), one in zip(targets, shown, strict=True)}


def _is_refusal(shown: ImageRecord | LocationUnavailable) -> bool:
    return isinstance(shown, LocationUnavailable) and shown.problem_code == "refused"


def _document(text: str, record: ImageRecord, urls: list[str]) -> str:
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<metalink xmlns="urn:ietf:params:xml:ns:metalink">',
        f"  <generator>glance-resolver/{__version__}</generator>",
        f'  <file name="{escape(text)}">',
    ]
    if record.size is not None:
        lines.append(f"    <size>{record.size}</size>")
    lines += [f'    <hash type="{name}">{value}</hash>' for name, value in record.hashes.items()]
    lines += [
        f'    <url priority="{priority}">{escape(url, quote=False)}</url>'
        for priority, url in enumerate(urls, 1)
    ]
    return "\n".join([*lines, "  </file>", "</metalink>", ""])
