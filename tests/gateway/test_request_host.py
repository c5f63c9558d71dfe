"""A `Host` that is not a host is refused, by the front and by the aiohttp application alike. The
links of a version document name the host that the client asked."""

from __future__ import annotations

import itertools
import json
import time

import pytest

from resolver.gateway.request_host import InvalidTargetError, is_host, parse_destination
from tests.gateway.conftest import Gateway
from tests.gateway.test_plain_application import exchange, plain_server
from tests.support.http_connection import connected

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"

HOSTS = [
    *("gateway", "images.example", "images.example.", "IMAGES.example:8443", "a_b-c.example:0"),
    *("127.0.0.1", "127.0.0.1:9393", "[::1]", "[2001:DB8::1]:65535", "[::ffff:192.0.2.1]:80"),
    *("images.example:", "b%C3%BCcher.example", "a,b;c=d!$&'()*+~"),
]
NO_HOSTS = [
    *(
        'a"b',
        "<script>",
        "u@evil.example",
        "u:p@evil.example:1",
        "evil.example/a",
        "evil.example?a",
    ),
    *("evil.example#a", "evil.example\\a", "a b", "a\tb", "a|b", "a^b", "{a}", "`a`", "\xff\xfe"),
    *("evil.example:99999999", "evil.example:65536", "evil.example:-1", "evil.example:1:2"),
    *("evil.example:x", "evil.example:\xb2", ":80", ":", "%", "%zz.example", "::1", "[::1"),
    *("[::1]x", "[::1]:x", "[]", "[:::]", "[1.2.3.4]", "[fe80::1%25eth0]", "[v1.x]", "[::1][::1]"),
    *("a" * 256, "http://evil.example"),
]
NO_URLS = [
    *(f"http://{host}/versions" for host in ("", "a@b", "a:65536", "a|b", "[::1", "[::1%25a]")),
    *("ftp://images.example/versions", "http:/versions", "versions", "*", "images.example:443"),
]
FRONT_PATHS = ["/versions", f"/v2/images/{ID}", f"/resolve/{ID}", "/livez"]
OTHER_PATHS = ["/openapi.json", "/v2/images", "/nowhere"]


def request_for(target: str, *fields: str, version: str = "1.1") -> bytes:
    lines = [f"GET {target} HTTP/{version}", *fields, "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1")


def links(response: str) -> set[str]:
    document = json.loads(response.partition("\r\n\r\n")[2])
    return {link["href"] for version in document["versions"] for link in version["links"]}


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_with_or_without_a_port_is_one(host: str) -> None:
    assert is_host(host)


@pytest.mark.parametrize("host", [*NO_HOSTS, ""])
def test_anything_else_is_none(host: str) -> None:
    assert not is_host(host)


async def test_a_host_that_is_none_is_refused(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with plain_server(gateway) as plain:
        for host in NO_HOSTS:
            for url, path in itertools.product((gateway.url, plain), FRONT_PATHS + OTHER_PATHS):
                response = await exchange(url, request_for(path, f"Host: {host}"))
                assert response.startswith("HTTP/1.1 400 "), (url, path, host)
                is_page = path.startswith("/v2/")
                assert ('"code": "malformed-request"' in response) is not is_page
                assert "the Host field is not a host" in response
                assert ID not in response
                assert "evil" not in response


async def test_the_field_must_be_a_host_although_that_of_a_url_counts(gateway: Gateway) -> None:
    """RFC 9112, 3.2.2."""
    request = request_for("http://images.example/versions", 'Host: a"b')
    async with plain_server(gateway) as plain:
        for url in (gateway.url, plain):
            assert (await exchange(url, request)).startswith("HTTP/1.1 400 ")


async def test_a_known_read_is_not_known_with_a_host_that_is_none(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with connected(gateway.url) as connection:
        for _ in range(2):
            assert (await connection.ask("GET", f"/v2/images/{ID}")).status == 307
        await connection.send(request_for(f"/v2/images/{ID}", "Host: gate|way"))
        assert (await connection.response()).status == 400
        assert await connection.is_closed()


@pytest.mark.parametrize("target", NO_URLS)
async def test_a_target_that_is_neither_path_nor_url_is_refused(
    gateway: Gateway, target: str
) -> None:
    response = await exchange(gateway.url, request_for(target, "Host: images.example"))
    assert response.startswith("HTTP/1.1 400 ")
    assert "neither a path nor a URL" in response
    with pytest.raises(InvalidTargetError, match="neither a path nor a URL"):
        parse_destination(target, "images.example", needs_host=True)


@pytest.mark.parametrize(
    "target", [f"/v2/images/{ID}#/../x", "/readyz#", f"http://images.example/v2/images/{ID}#a"]
)
async def test_a_target_with_a_fragment_is_refused(gateway: Gateway, target: str) -> None:
    """A proxy that takes it for a part of the path sees another path than we do."""
    async with plain_server(gateway) as plain:
        for url in (gateway.url, plain):
            response = await exchange(url, request_for(target, "Host: images.example"))
            assert response.startswith("HTTP/1.1 400 ")
            assert "fragment" in response


async def test_links_name_the_host_that_was_asked(gateway: Gateway) -> None:
    async with plain_server(gateway) as plain:
        for url in (gateway.url, plain):
            for host in HOSTS:
                response = await exchange(url, request_for("/versions", f"Host: {host}"))
                assert links(response) == {f"http://{host}/v2/"}
                target = f"http://{host}/versions"
                response = await exchange(url, request_for(target, "Host: other.example"))
                assert links(response) == {f"http://{host}/v2/"}


@pytest.mark.parametrize(
    ("version", "fields"), [("1.1", ["Host:"]), ("1.0", ["Host: "]), ("1.0", [])]
)
async def test_links_are_paths_where_no_host_is_known(
    gateway: Gateway, version: str, fields: list[str]
) -> None:
    async with plain_server(gateway) as plain:
        for url in (gateway.url, plain):
            response = await exchange(url, request_for("/versions", *fields, version=version))
            assert links(response) == {"/v2/"}
            region = request_for("/region/north/versions", *fields, version=version)
            assert links(await exchange(url, region)) == {"/region/north/v2/"}


async def test_http_1_1_needs_the_field(gateway: Gateway) -> None:
    for target in ("/versions", "/openapi.json", "http://images.example/versions"):
        response = await exchange(gateway.url, request_for(target))
        assert response.startswith("HTTP/1.1 400 ")
        assert "the Host field is missing" in response
        with pytest.raises(InvalidTargetError, match="the Host field is missing"):
            parse_destination(target, None, needs_host=True)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://images.example:8443", "/"),
        ("HTTP://images.example:8443?a=b", "/?a=b"),
        ("https://images.example:8443/v2/images?limit=1", "/v2/images?limit=1"),
        ("http://images.example:8443//evil.example/x", "//evil.example/x"),
    ],
)
def test_the_host_of_a_url_counts(target: str, path: str) -> None:
    destination = parse_destination(target, "other.example", needs_host=True)
    assert destination == ("images.example:8443", path)


@pytest.mark.parametrize("target", [f"http://images.example/v2/images/{ID}", "http://b:1/livez"])
async def test_the_front_answers_urls_too(gateway: Gateway, target: str) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with plain_server(gateway) as plain, connected(gateway.url) as connection:
        for _ in range(2):
            await connection.send(
                request_for(target, "Host: a").replace(b"Connection: close", b"A: b")
            )
            front = await connection.response()
            expected = await exchange(plain, request_for(target, "Host: a"))
            assert front.head.split("\r\n")[0] == expected.split("\r\n")[0]
            assert front.body.decode() == expected.partition("\r\n\r\n")[2]


@pytest.mark.parametrize("text", ["a", "1", "%61", "a.", "[", "[:", "[1:", "[1.", "a:", "a:1", "-"])
def test_8_kib_are_checked_within_a_millisecond(text: str) -> None:
    field = (text * 8192)[:8192]
    for hostile in (field, f"{field}]", f"{field}@", f"a:{field}", f"[{field}]:1"):
        least = 1.0
        for _ in range(5):  # others use this machine, too
            started = time.thread_time()
            assert not is_host(hostile)
            least = min(least, time.thread_time() - started)
        assert least < 0.001
