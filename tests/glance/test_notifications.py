"""Parsing Glance's notifications, and finding the broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.errors import LocationUnavailable
from resolver.glance import Notice, SecretSources, parse_notice
from resolver.glance.notifications import broker_urls
from resolver.models import parse_id
from tests.support.notifications import envelope, message

IMAGE = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
IMAGE_ID = parse_id(IMAGE)
NOON = 1_800_000_000.25


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("wrap", [envelope, lambda bare: bare], ids=["oslo", "bare"])
def test_both_envelopes_are_parsed(wrap: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    bare = message("image.create", {"id": IMAGE, "status": "queued", "deleted": False}, at=NOON)
    notice = parse_notice(encoded(wrap(bare)))
    assert notice is not None
    assert notice[:4] == Notice(IMAGE_ID, 0, deleted=False, sent_at=NOON)[:4]


@pytest.mark.parametrize(
    ("event", "payload", "deleted"),
    [
        ("image.create", {"id": IMAGE}, False),
        ("image.update", {"id": IMAGE, "status": "active"}, False),
        ("image.activate", {"id": IMAGE}, False),
        ("image.upload", {"id": IMAGE}, False),
        ("image.delete", {"id": IMAGE, "deleted": True}, True),
        ("image.delete", {"id": IMAGE, "status": "pending_delete"}, True),
        ("image.update", {"id": IMAGE, "deleted": True}, True),
        ("image.update", {"id": IMAGE, "status": "deleted"}, True),
    ],
)
def test_events_show_whether_the_image_exists(
    event: str, payload: dict[str, Any], deleted: bool
) -> None:
    notice = parse_notice(encoded(message(event, payload)))
    assert notice is not None
    assert notice.deleted is deleted


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"junk",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 100_000,
        encoded({"oslo.version": "2.0", "oslo.message": "no JSON"}),
        encoded({"oslo.version": "2.0", "oslo.message": 5}),
        encoded(message("image.upload", "Error: the store is full")),
        encoded(message("image.send", {"image_id": IMAGE, "bytes_sent": 5})),
        encoded(message("image.member.create", {"image_id": IMAGE, "member_id": "p"})),
        encoded(message("metadef_tag.create", {"id": IMAGE})),
        encoded(message("image.create", {"id": "no-uuid"})),
        encoded(message("image.create", {"id": None})),
        encoded(message("image.create", {})),
        encoded({"event_type": ["image.create"], "payload": {"id": IMAGE}}),
        encoded(message("image.create", {"id": IMAGE, "x": "y" * 2_000_000})),
    ],
    ids=lambda body: f"{len(body)} bytes",
)
def test_bodies_without_an_image_event_are_ignored(body: bytes) -> None:
    assert parse_notice(body) is None


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists) | st.binary())
def test_no_body_breaks_the_parser(body: Any) -> None:
    assert parse_notice(body if isinstance(body, bytes) else encoded(body)) is None
    parse_notice(
        encoded(
            {"event_type": "image.create", "payload": {"id": IMAGE}, "timestamp": body}
            if not isinstance(body, bytes)
            else {}
        )
    )


def test_the_spelling_is_parsed() -> None:
    notice = parse_notice(encoded(message("image.create", {"id": IMAGE.upper()})))
    assert notice is not None
    assert (notice.image_id, notice.letter_case != 0) == (IMAGE_ID, True)


def test_broker_urls_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for secret, urls in (
        ("amqp://u:p@h/v", ["amqp://u:p@h/v"]),
        ("rabbit://u:p@h:5672/", ["amqp://u:p@h:5672/"]),
        ("rabbit://u:p@a:1,u:p@b:2/v", ["amqp://u:p@a:1/v", "amqp://u:p@b:2/v"]),
    ):
        monkeypatch.setenv("GLANCE_BROKER", secret)
        assert broker_urls({"url_env": "GLANCE_BROKER"}, SecretSources()) == urls
    for wrong in ("http://h", "h:5672", ""):
        monkeypatch.setenv("GLANCE_BROKER", wrong)
        with pytest.raises(LocationUnavailable, match=r"(?i)broker"):
            broker_urls({"url_env": "GLANCE_BROKER"}, SecretSources())
