"""Reports about all images of the index: conflicts, and what a region lacks. One JSON line each.

Images with the same owners share a line but for their id, so that a million take seconds.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

from resolver.image_facts import Content, differ
from resolver.index import lookup_owners, summarize
from resolver.models import Health, format_id
from resolver.registry import Table
from resolver.resolution.ranking import DEFAULT_PREFERENCES, ImageOwner, owners_of, rank_key
from resolver.resolution.templates import PLACEHOLDER

MAX_CACHED_LINES = 10_000
"""Lines kept for images with the same owners."""

Describe = Callable[[list[ImageOwner], bytes, str], dict[str, Any] | None]
"""The row about an image with these owners, its id and its id as text; None for no row."""


class Report:
    """The lines of one report, for rows of `resolver.index.walk`."""

    def __init__(self, table: Table, describe: Describe) -> None:
        self._table = table
        self._describe = describe
        self._lines: dict[bytes, str] = {}
        """By summary of the owners; empty for images without a line."""

    def lines(self, rows: Iterable[tuple[bytes, bytes]]) -> Iterator[str]:
        """The lines, each with its newline. ``rows``: image ids, each with its owners as the index
        stores them."""
        for image_id, stored in rows:
            value = summarize(stored)
            line = self._lines.get(value)
            if line is None:
                line = self._line(value, image_id)
            if line:
                yield line.replace(PLACEHOLDER, format_id(image_id))

    def _line(self, value: bytes, image_id: bytes) -> str:
        owners = owners_of(self._table, lookup_owners(value))
        row = self._describe(owners, image_id, PLACEHOLDER) if owners else None
        line = f"{json.dumps(row)}\n" if row else ""
        if not any(owner.letter_case for owner in owners):  # else it is about this image only
            if len(self._lines) >= MAX_CACHED_LINES:
                self._lines.clear()
            self._lines[value] = line
        return line


def conflict_row(owners: list[ImageOwner], image_id: bytes, text: str) -> dict[str, Any] | None:
    """The row of an image whose owners are known to have different bytes. Owners with the same
    ``content`` have the same bytes; null: it is not known."""
    if not differ(owner.content for owner in owners):
        return None
    numbers: dict[Content, int] = {}
    return {
        "id": text,
        "owners": [
            {
                "location": owner.name,
                "region": owner.view.location.region,
                "url": owner.view.images_url + owner.spell(image_id, text),
                "status": owner.status and str(owner.status),
                "content": owner.content and numbers.setdefault(owner.content, len(numbers) + 1),
            }
            for owner in sorted(owners, key=lambda owner: owner.name)
        ],
    }


def missing_in(region: str, domains: Container[str]) -> Describe:
    """Describes the images that no location in ``region`` has. ``domains``: those of its locations.
    Another domain's Keystone does not know the region."""

    def describe(owners: list[ImageOwner], image_id: bytes, text: str) -> dict[str, Any] | None:
        if any(owner.view.location.region == region for owner in owners):
            return None
        row: dict[str, Any] = {
            "id": text,
            "region": region,
            "locations": sorted(owner.name for owner in owners),
        }
        source = _import_source(owners, domains)
        if source is None:
            reasons = (f"{o.name} {_not_a_source(o, domains)}" for o in owners)
            return {**row, "source": None, "reason": ", ".join(sorted(reasons))}
        commands = import_commands(
            region, source.view.location.region, text, source.spell(image_id, text)
        )
        return {**row, "source": source.name, **commands}

    return describe


def import_commands(
    region: str, source_region: str, image_id: str, source_id: str
) -> dict[str, str]:
    """The commands that bring an image from another region, for a shell: ``create`` makes the
    record that ``command`` imports into. Both clients' forms of the latter are there, which name
    the image at the source differently.

    ``openstack image create`` takes whatever its standard input has for the image's bytes, unless
    that is a terminal. Without a terminal the shell does not run it. ``openstack image import``
    (openstacksdk 4.22) sends no region where the interface is not given."""
    where = f"OS_REGION_NAME={shlex.quote(region)} "
    source = shlex.quote(source_region)
    return {
        "create": f"{where}openstack image create --id {image_id} {image_id} </dev/tty",
        "command": f"{where}openstack image import {image_id} --method glance-download "
        f"--remote-region {source} --remote-image {source_id} --remote-service-interface public",
        "glance_command": f"{where}glance image-import {image_id} --import-method glance-download "
        f"--remote-region {source} --remote-image-id {source_id}",
    }


def _import_source(owners: Iterable[ImageOwner], domains: Container[str]) -> ImageOwner | None:
    """The best owner that another Glance can download from: Keystone's catalog names it by its
    region."""
    usable = [owner for owner in owners if not _not_a_source(owner, domains)]
    return min(
        usable,
        key=lambda owner: (rank_key(owner.view, DEFAULT_PREFERENCES, ""), owner.name),
        default=None,
    )


def _not_a_source(owner: ImageOwner, domains: Container[str]) -> str:
    """Why a Glance of these domains cannot download an image from this owner; empty if it can."""
    view = owner.view
    if view.refused:
        return "is not allowed here"
    if not view.in_service:
        return "is in maintenance"
    if view.health is Health.DOWN:
        return "is down"
    if not owner.is_usable:
        return f"has no bytes of it ({owner.status})"
    if not view.location.region:
        return "has no region"
    return "" if view.location.domain in domains else "is of another `domain`"
