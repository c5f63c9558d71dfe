"""Errors below ``/v1`` and ``/v2``: what Glance's clients can show to their users."""

from __future__ import annotations

import html
import itertools

import pytest

from tests.gateway.conftest import V1, V2, Gateway, Start
from tests.support.http_connection import connected

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
IMAGE = f"/v2/images/{ID}"

GLANCE_PAGE = f"""<html>
 <head>
  <title>404 Not Found</title>
 </head>
 <body>
  <h1>404 Not Found</h1>
  No image found with ID {ID}<br /><br />



 </body>
</html>"""
"""What Glance 33 answers; tests/glance compares it with a real one."""

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


async def error_text(gateway: Gateway, method: str, path: str) -> tuple[int, str, str]:
    """(status, ``Allow``, the text that Glance's clients show) of an error in Glance's form."""
    response, _ = await gateway.call(method, path, headers={"Accept": "*/*"})
    assert response.content_type == "text/html", path
    lines = (await response.text()).splitlines()
    assert lines[5] == f"  <h1>{response.status} {response.reason}</h1>"
    text = html.unescape(lines[6].removesuffix("<br /><br />").strip())
    return response.status, response.headers.get("Allow", ""), text


@pytest.mark.parametrize("accept", [None, "*/*", "text/html", "text/uri-list", "", BROWSER])
@pytest.mark.parametrize("path", [IMAGE, f"/v1/images/{ID}", f"{IMAGE}/file", f"{IMAGE}?x=1"])
async def test_an_absent_image_is_answered_as_glance_does(
    gateway: Gateway, path: str, accept: str | None
) -> None:
    await gateway.location("one")
    fields = [] if accept is None else [f"Accept: {accept}"]
    async with connected(gateway.url) as connection:
        for _ in range(2):  # the second one is recognized without parsing
            response = await connection.ask("GET", path, *fields)
            assert response.status == 404
            assert "Content-Type: text/html; charset=UTF-8\r\n" in response.head
            assert ", Accept\r\n" in response.head  # of Vary
            assert response.body.decode() == GLANCE_PAGE


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/problem+json", "application/problem+json"),
        ("application/problem+json, application/json", "application/problem+json"),
        ("application/json", "application/json"),
        ("application/json, */*", "application/json"),
        ("text/html;q=0.1, application/json;q=0.2", "application/json"),
    ],
)
@pytest.mark.parametrize("path", [IMAGE, f"{IMAGE}/members"])
async def test_a_client_that_names_json_gets_the_problem(
    gateway: Gateway, path: str, accept: str, media_type: str
) -> None:
    await gateway.location("one")
    for _ in range(2):
        response, body = await gateway.get(path, headers={"Accept": accept})
        assert (response.status, response.content_type) == (404, media_type)
        assert (body["code"], body["outcome"], body["missing"]) == ("image-absent", "absent", [])
        # Where Glance sends JSON, openstacksdk takes the reason from this member.
        message = f"No image found with ID {ID}" if media_type == "application/json" else None
        assert body.get("message") == message


@pytest.mark.parametrize("path", [f"/resolve/{ID}", "/nowhere", "/v3", "/v20/images", "/locations"])
async def test_other_paths_have_problem_documents_only(gateway: Gateway, path: str) -> None:
    await gateway.location("one")
    response, _ = await gateway.get(path, headers={"Accept": "text/html, */*;q=0.1"})
    assert response.status in (401, 404)
    assert response.content_type == "application/problem+json"


async def test_errors_of_the_router_have_the_form_of_glance_too(gateway: Gateway) -> None:
    await gateway.location("one", versions=V1 + V2, region="RegionOne")
    status, _, text = await error_text(gateway, "GET", "/v2/no/such/path")
    assert (status, text) == (404, "nothing is here: /openapi.json lists the paths")
    for method, path in (
        ("POST", "/v2/images"),
        ("DELETE", "/v2/metadefs/namespaces/x"),
        ("POST", "/v1/images"),
        ("PUT", "/v2/schemas/image"),
    ):
        status, allow, text = await error_text(gateway, method, path)
        assert (status, allow) == (405, "GET" if path == "/v2/images" else "GET, HEAD")
        assert text == (
            f"This gateway redirects reads only: send {method} to https://one.example:9292{path}, "
            "or choose its region (--os-region-name RegionOne)."
        )


@pytest.mark.parametrize("redirect_writes", [False, True])
async def test_nobody_is_advised_to_send_what_no_glance_accepts(
    start: Start, redirect_writes: bool
) -> None:
    gateway = await start(redirect_writes=redirect_writes)
    await gateway.location("one")
    await gateway.claim("one", ID)
    for method, path in (
        ("PUT", "/v2/images"),
        ("DELETE", "/region/R/v2/images"),
        ("OPTIONS", "/v2/tasks"),
        ("PUT", f"/v2/images/{ID}"),
        ("OPTIONS", f"/v2/images/{ID}/file"),
    ):
        status, allow, text = await error_text(gateway, method, path)
        allowed = ["GET"] if path.endswith("/images") else ["GET", "HEAD"]
        if redirect_writes:
            allowed += {"images": ["POST"], ID: ["DELETE", "PATCH"]}.get(path.split("/")[-1], [])
        assert (status, allow) == (405, ", ".join(allowed))
        assert text == f"The method {method} is not allowed for this resource."
    response, _ = await gateway.call("HEAD", "/v2/images")
    allow = "GET, POST" if redirect_writes else "GET"
    assert (response.status, response.headers["Allow"]) == (405, allow)


@pytest.mark.parametrize("redirect_writes", [False, True])
@pytest.mark.parametrize("path", ["/v2/images/", "/region/R/v2/images/", "/v2/images//file"])
async def test_a_write_to_an_empty_id_is_404_as_at_glance(
    start: Start, path: str, redirect_writes: bool
) -> None:
    gateway = await start(redirect_writes=redirect_writes)
    await gateway.location("one")
    for method in ("DELETE", "PATCH", "PUT", "POST"):
        status, _, text = await error_text(gateway, method, path)
        assert (status, text) == (404, "nothing is here: /openapi.json lists the paths")


async def test_a_write_is_refused_with_what_to_do_where_no_location_is_known(
    gateway: Gateway,
) -> None:
    _, _, text = await error_text(gateway, "POST", "/v2/images")
    assert text == "This gateway redirects reads only: send POST to a Glance server itself."
    await gateway.location("old", versions=V1)
    response, body = await gateway.call("POST", "/v2/images")
    assert body["url"] is None
    response, body = await gateway.call("POST", "/v1/images")
    assert body["url"] == "https://old.example:9292/v1/images"
    assert response.headers["Link"] == f'<{body["url"]}>; rel="alternate"'


@pytest.mark.parametrize("redirect_writes", [False, True])
async def test_a_refused_write_to_an_image_says_what_to_do(
    start: Start, redirect_writes: bool
) -> None:
    gateway = await start(redirect_writes=redirect_writes)
    await gateway.location("one", versions=V1 + V2, region="Nord Ost")
    await gateway.claim("one", ID)
    status, allow, text = await error_text(gateway, "PUT", f"{IMAGE}/file")
    assert (status, allow) == (405, "GET, HEAD")
    passed_on = "reads and small writes" if redirect_writes else "reads"
    assert text == (
        f"This gateway redirects {passed_on} only: send PUT to https://one.example:9292{IMAGE}"
        "/file, or choose its region (--os-region-name 'Nord Ost')."
    )


@pytest.mark.parametrize("redirect_writes", [False, True])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", IMAGE),
        ("PATCH", IMAGE),
        ("PUT", f"{IMAGE}/file"),
        ("POST", f"{IMAGE}/actions/deactivate"),
        ("DELETE", f"/v1/images/{ID}"),
    ],
)
async def test_writes_to_an_image_without_owner_fail_as_reads_do(
    start: Start, method: str, path: str, redirect_writes: bool
) -> None:
    """SDK's `delete_image` is False after a 404, and an error after everything else."""
    gateway = await start(redirect_writes=redirect_writes)
    await gateway.location("one")
    status, _, text = await error_text(gateway, method, path)
    assert (status, text) == (404, f"No image found with ID {ID}")
    await gateway.location("silent", covered=False)
    response, body = await gateway.call(method, path)
    assert (response.status, body["outcome"], body["missing"]) == (503, "unknown", ["silent"])
    assert int(response.headers["Retry-After"]) > 0


async def test_the_error_for_an_unknown_image_names_the_silent_locations(gateway: Gateway) -> None:
    for number in range(9):
        await gateway.location(f"silent{number}", covered=False)
    status, _, text = await error_text(gateway, "GET", IMAGE)
    assert status == 503
    assert "silent0: " in text
    assert "and 5 more" in text
    assert len(text) < 400


async def test_another_resolver_gets_errors_in_the_form_of_glance(gateway: Gateway) -> None:
    for path in (IMAGE, "/v2/none"):
        headers = {"Accept": "*/*", "X-Resolver-Hop": "1"}
        response, _ = await gateway.get(path, headers=headers)
        assert (response.status, response.content_type) == (508, "text/html")


async def test_what_a_client_wrote_is_escaped(gateway: Gateway) -> None:
    response, _ = await gateway.get("/v2/images/%3Cb%3E&amp;", headers={"Accept": "*/*"})
    assert response.status == 404
    assert "No image found with ID &lt;b&gt;&amp;amp;<br />" in await response.text()


UNREADABLE = {
    "target": (414, "{0}/{1} HTTP/1.1\r\nHost: g\r\n", "x" * 9000),
    "field": (431, "{0} HTTP/1.1\r\nHost: g\r\nX-Auth-Token: {1}\r\n", "x" * 17_000),
    "fields": (431, "{0} HTTP/1.1\r\nHost: g\r\n{1}", "X: y\r\n" * 200),
    "no host": (400, "{0} HTTP/1.1\r\n{1}", ""),
    "no such host": (400, "{0} HTTP/1.1\r\nHost: {1}\r\n", "a/b"),
    "two hosts": (400, "{0} HTTP/1.1\r\nHost: g\r\n{1}", "Host: g\r\n"),
    "version": (400, "{0} HTTP/9.9\r\nHost: g\r\n{1}", ""),
    "expectation": (417, "{0} HTTP/1.1\r\nHost: g\r\n{1}", "Expect: junk\r\n"),
    "body": (400, "{0} HTTP/1.1\r\nHost: g\r\n{1}", "Transfer-Encoding: chunked\r\n"),
}
"""Status, and the head of a request for a path that cannot be answered."""


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize(
    "path", [IMAGE, "/v2/images", "/v1/images/detail", "/region/a%20b/v2/info/import", "/resolve"]
)
async def test_a_request_that_cannot_be_read_is_refused_in_the_same_form(
    gateway: Gateway, name: str, path: str
) -> None:
    status, head, part = UNREADABLE[name]
    method = "POST" if name == "body" else "GET"
    for prefix, accept in itertools.product(
        ("", "http://g"), ("*/*", "application/problem+json", "application/json, */*;q=0.1")
    ):
        request = f"{method} {prefix}{head}ACCEPT:{accept}\r\n\r\n".format(path, part)
        if name == "body":
            request += "zz\r\n"
        async with connected(gateway.url) as connection:
            await connection.send(request.encode())
            response = await connection.response()
        assert response.status == status
        if path == "/resolve":
            assert response.problem_code
        elif accept == "*/*":
            assert "Content-Type: text/html; charset=UTF-8\r\n" in response.head
            assert response.body.startswith(b"<html>\n <head>\n  <title>%d " % status)
        else:
            assert f"Content-Type: {accept.partition(',')[0]}\r\n" in response.head
            assert response.json()["status"] == status


async def test_a_late_request_is_refused_in_the_same_form(start: Start) -> None:
    gateway = await start(client_timeout=0.2)
    for head in (f"GET {IMAGE} HTTP/1.1\r\nHost: g\r\n", f"GET {IMAGE} "):
        async with connected(gateway.url) as connection:
            await connection.send(head.encode())
            response = await connection.response()
        assert response.status == 408
        assert "Content-Type: text/html; charset=UTF-8\r\n" in response.head


async def test_a_refused_head_has_no_body_on_a_connection_that_stays_open(gateway: Gateway) -> None:
    async with connected(gateway.url) as connection:
        connection.send_request("HEAD", IMAGE, "Expect: junk")
        connection.send_request("GET", "/livez")
        response = await connection.response(has_body=False)
        assert response.status == 417
        assert "Connection: close\r\n" in response.head
