"""Validation of the fields of a location, and the messages for invalid ones."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from yarl import URL

from resolver.errors import InvalidLocation
from resolver.location_fields import parse_base_url
from resolver.models import Api, Location, State
from resolver.registry.validation import check_name, parse_location

# Pieces that URL parsers are known to read in different ways, to be combined at random.
TEXT = (
    "http://|https://|HTTP://|//|/|\\|@|:|:80|?|#|%|%2f|%40|[|]|[::1]|a|evil.example|good.example|"
    "1.2.3.4|..|.|;|user:pw@|v2|xn--|0x7f.1|,|\t|\n|\r| |\0|\u00e9|\uff0f|\u2025"
)
pieces = st.sampled_from(TEXT.split("|"))
urls = st.one_of(
    st.text(),
    st.lists(pieces, max_size=8).map("".join),
    st.lists(pieces, max_size=6).map(lambda parts: "http://" + "".join(parts)),
)


@settings(max_examples=500)
@given(urls)
@example("http://good.example[evil.example]")
@example("http://[::1]evil.example")
@example("http://good.example\\@evil.example")
@example("http://good.example:80:90/")
@example("http://GOOD.example:/")
def test_every_parser_reads_an_accepted_url_in_the_same_way(text: str) -> None:
    """Both parsers find the same host in every URL that is accepted, and only a base URL."""
    try:
        url = parse_base_url(text)
    except InvalidLocation:
        return
    given, stored, sent = urlsplit(text), urlsplit(url), URL(url)
    assert stored.scheme == given.scheme
    assert stored.scheme in ("http", "https")
    assert stored.hostname == given.hostname == sent.raw_host
    assert stored.port == given.port
    assert sent.port == (given.port or {"http": 80, "https": 443}[stored.scheme]) or given.port == 0
    assert (stored.username, stored.password, sent.user, sent.password) == (None,) * 4
    assert "@" not in stored.netloc
    assert {stored.query, stored.fragment, sent.query_string, sent.fragment} == {""}
    assert not set(url) & set("?# \\\t\r\n\0")
    assert not url.endswith("/")
    assert "/../" not in f"{stored.path}/"
    assert parse_base_url(url) == url
    # Appending a path must not change where it goes.
    assert urlsplit(f"{url}/v2/images").netloc == stored.netloc
    assert URL(f"{url}/v2/images").path.endswith("/v2/images")


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("http://one.example", "http://one.example"),
        ("HTTPS://One.Example:9292/", "https://one.example:9292"),
        ("https://cloud.example/image//", "https://cloud.example/image"),
        ("http://[FE80::1]:9292/x", "http://[fe80::1]:9292/x"),
        ("http://10.0.0.1:0443", "http://10.0.0.1:443"),
        ("http://h/a%20b/v2x", "http://h/a%20b/v2x"),
    ],
)
def test_the_stored_form_of_urls(text: str, stored: str) -> None:
    assert parse_base_url(text) == stored


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "missing"),
        ("", "missing"),
        (5, "missing"),
        ("one.example", "http:// or https://"),
        ("ftp://one.example", "http:// or https://"),
        ("http://", "http:// or https://"),
        ("http:///path", "http:// or https://"),
        ("http://u:p@one.example", "user or password"),
        ("http://one.example?x=1", "query or fragment"),
        ("http://one.example#x", "query or fragment"),
        ("http://one.example/a b", "characters"),
        ("http://\u00f6ne.example", "characters"),
        ("http://one.example:99999", "not a URL"),
        ("http://one.example:port", "not a URL"),
        ("http://[::1", "not a URL"),
        ("http://h/a/../b", "two ways"),
        ("http://h/a/%2e%2e/b", "two ways"),
        ("http://h/a%2fb", "two ways"),
        ("http://h/a//b", "two ways"),
        ("http://%65vil.example", "two ways"),
        ("http://[fe80::1%25eth0]", "two ways"),
        ("http://[fe80::1%eth0]", "two ways"),
        ("http://one.example\r\nX: y", "characters"),
        ("http://one.example/\x00", "characters"),
        ("http://one.example%0d%0a", "two ways"),
        ("http://h/%zz", "two ways"),
        ("http://h/image/v2", "without the version: http://h/image"),
        ("http://h/v1/", "without the version: http://h"),
        ("http://h/image/V2/", "without the version: http://h/image"),
        ("http://h/v2/5e1f0d", "without the version and the project: http://h"),
        ("http://h/image/v2.1/AUTH_5e1f/", "without the version and the project: http://h/image"),
        ("http://h/v2.15", "without the version: http://h"),
        ("http://h/" + "x" * 2000, "characters"),
    ],
)
def test_urls_that_are_refused(text: Any, why: str) -> None:
    with pytest.raises(InvalidLocation, match=re.escape(why)) as caught:
        parse_base_url(text)
    assert len(caught.value.detail) < 300


@pytest.mark.parametrize("name", ["a", "0", "one.b_c-d", "x" * 63])
def test_valid_names_are_accepted(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a b", "a/b", "x" * 64, "\u00e9", "a\n"])
def test_invalid_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidLocation, match="location name"):
        check_name(name)


def test_a_location_with_all_fields_is_accepted() -> None:
    fields = {
        "name": "one",
        "url": "http://one.example/",
        "region": "r",
        "api": "v1",
        "priority": 0,
        "weight": 5,
        "state": "draining",
        "reason": "because",
        "sees_all": True,
        "auth": {"token_file": "/run/token"},
    }
    assert parse_location("one", fields) == Location(
        name="one",
        url="http://one.example",
        region="r",
        api=Api.V1,
        priority=0,
        weight=5,
        state=State.DRAINING,
        reason="because",
        sees_all=True,
        auth={"token_file": "/run/token"},
    )


def test_changing_some_fields_leaves_the_others() -> None:
    base = Location(name="one", url="http://one.example", number=7, region="r", weight=3, created=5)
    changed = parse_location("one", {"weight": 0, "region": None}, base)
    assert changed == Location(name="one", url=base.url, number=7, region="", weight=0, created=5)
    assert parse_location("one", {}, base) == base


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "`url` is missing"),
        ({"url": None}, "`url` is missing"),
        (
            {"urls": "x"},
            "unknown field urls (did you mean 'url'?): a location has url, public_url, region",
        ),
        ({"public_url": "http://a.example/v2"}, "`public_url` must be the base URL, without"),
        ({"public_url": 5}, "`public_url` is missing"),
        ({"networks": "10.0.0.0/8"}, "`networks` must be a list"),
        ({"networks": ["10.0.0.0/8"] * 1001}, "`networks` must be a list of at most 1000"),
        ({"networks": ["10.0.0.1/8"]}, "has bits after its prefix: write 10.0.0.0/8"),
        ({"networks": ["2001:db8::1/32"]}, "has bits after its prefix: write 2001:db8::/32"),
        ({"networks": ["::ffff:10.0.0.0/104"]}, "is IPv4 written as IPv6: write 10.0.0.0/8"),
        ({"networks": ["one.example"]}, "'one.example' is not a network: write one such as"),
        ({"networks": [5]}, "'5' is not a network"),
        ({"networks": [""]}, "'' is not a network"),
        ({"networks": ["10.0.0.0/8"]}, "give `region` too"),
        ({"domain": 5}, "`domain` must be a text"),
        ({"number": 5}, "unknown field number"),
        ({"netw\x7frks": 5}, "unknown field 'netw\\x7frks' (did you mean 'networks'?)"),
        ({"name": "two"}, "cannot be renamed"),
        ({"region": 5}, "`region` must be a text"),
        ({"region": "a\nb"}, "`region` must be a text"),
        ({"reason": "x" * 256}, "`reason` must be a text"),
        ({"priority": -1}, "`priority` must be a whole number"),
        ({"priority": 1.5}, "`priority` must be a whole number"),
        ({"priority": True}, "`priority` must be a whole number"),
        ({"weight": "1"}, "`weight` must be a whole number"),
        ({"weight": 10**9}, "`weight` must be a whole number"),
        ({"api": "v3"}, "`api` must be one of auto, v1, v2, not 'v3'"),
        ({"api": None}, "`api` must be one of"),
        ({"state": "off"}, "`state` must be one of active, draining, maintenance"),
        ({"state": ["active"]}, "`state` must be one of"),
        ({"sees_all": "yes"}, "`sees_all` must be true, false, or null"),
        ({"sees_all": 0}, "`sees_all` must be true, false, or null"),
        ({"sees_all": 1}, "`sees_all` must be true, false, or null"),
        ({"auth": "secret"}, "never the token itself"),
        ({"auth": {}}, "never the token itself"),
        ({"auth": {"token_env": "A", "token_file": "/b"}}, "never the token itself"),
        ({"auth": {"token": "secret"}}, "knows `token_env`, `token_file` and `cloud`"),
        ({"auth": {"token_env": "a b"}}, "name of an environment variable"),
        ({"auth": {"token_env": 5}}, "name of an environment variable"),
        ({"auth": {"token_env": "RESOLVER_ADMIN_TOKENS"}}, "must not name a setting"),
        ({"auth": {"token_file": "relative"}}, "absolute path"),
        ({"auth": {"cloud": ""}}, "name of a cloud"),
        ({"auth": {"cloud": ["a"]}}, "printable"),
        ({"auth": {"token_file": "/a\0b"}}, "absolute path"),
    ],
)
def test_fields_that_are_refused(fields: dict[str, Any], why: str) -> None:
    whole = {"url": "http://one.example", **fields} if fields else {}
    with pytest.raises(InvalidLocation, match=re.escape(why)) as caught:
        parse_location("one", whole)
    assert "secret" not in caught.value.detail
