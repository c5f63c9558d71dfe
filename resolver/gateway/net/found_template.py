"""The text of a response about images with the same owners, rendered once without the id."""

from __future__ import annotations

from collections.abc import Hashable
from typing import cast

from resolver.errors import ResolverError
from resolver.gateway.api.image_reads import URI_LIST, ImageRead, render_image_read
from resolver.gateway.image_path import ImagePath
from resolver.gateway.negotiation import JSON
from resolver.gateway.reply import head_text
from resolver.resolution import Answer, Preferences
from resolver.resolution.answer import json_text

END_OF_HEAD = "\0"
"""Stands between the head and the body in a template."""


def render_found(
    preferences: Preferences, answer: Answer, text: str, variant: Hashable
) -> str | None:
    """The part of a response that is the same for all images with these owners: its head, and the
    body of data, of JSON up to its source. None where there is no owner to name, or bytes are
    asked for that no owner is known to have: locations are asked first then."""
    if variant in (JSON, URI_LIST):
        path, is_head = None, False
    else:
        api, rest, is_head = cast("tuple[str, str, bool]", variant)
        path = ImagePath(api, answer.image_id, 0, rest, "")
    media_type = str(variant) if path is None else JSON
    read = ImageRead(answer.image_id, 0, preferences, is_head, path, media_type)
    if read.needs_bytes and answer.lacks_bytes:
        return None
    try:
        reply = render_image_read(read, answer, text)
    except ResolverError:
        return None
    if path is not None:
        return head_text(reply)
    body = json_text(answer, text) if variant == JSON else reply.body.decode()
    return f"{head_text(reply)}{END_OF_HEAD}{body}"
