"""Questions on kept connections: plain answers are read, and nothing else is believed."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from hypothesis import given
from hypothesis import strategies as st

from resolver.errors import LocationUnavailable
from resolver.glance import GlanceServer, connect, keep_connections
from resolver.glance.kept_connections import KeptConnection, KeptConnections, UnusualAnswer
from resolver.models import Location
from resolver.standin import StandIn
from tests.glance.pair import Pair
from tests.support.certificates import Authority
from tests.support.clouds import clouds
from tests.support.tcp_server import listening
from tests.support.wait import wait_until

PATH = "/v2/images/1"
PLAIN = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nX-Openstack-Request-Id: req-1\r\n\r\nno"

UNUSUAL = {
    "chunked": b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    "both": PLAIN.replace(b"X-Open", b"Transfer-Encoding: chunked\r\nX-Open"),
    "no length": b"HTTP/1.1 404 Not Found\r\n\r\nno",
    "two lengths": PLAIN.replace(b"X-Open", b"content-length: 2\r\nX-Open"),
    "no number": PLAIN.replace(b": 2", b": +2"),
    "a long number": PLAIN.replace(b": 2", b": " + b"1" * 5000),
    "1.0": PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "2": PLAIN.replace(b"HTTP/1.1", b"HTTP/2"),
    "no HTTP": b"+OK\r\n\r\n",
    "informational": b"HTTP/1.1 103 Early Hints\r\n\r\n" + PLAIN,
    "long status": PLAIN.replace(b"404", b"4040"),
    "folded": PLAIN.replace(b"X-Open", b"A: b\r\n c\r\nX-Open"),
    "space before the colon": PLAIN.replace(b"Length:", b"Length :"),
    "no name": PLAIN.replace(b"X-Open", b": b\r\nX-Open"),
    "no colon": PLAIN.replace(b"X-Open", b"what\r\nX-Open"),
    "bare line feed": PLAIN.replace(b"X-Open", b"A: b\nX-Open"),
    "bare carriage return": PLAIN.replace(b"X-Open", b"A: b\rX-Open"),
    "zero byte": PLAIN.replace(b"X-Open", b"A: \0\r\nX-Open"),
    "many fields": PLAIN.replace(b"X-Open", b"A: b\r\n" * 200 + b"X-Open"),
    "more than its length": PLAIN + b"x",
    "two answers": PLAIN + PLAIN,
}
LONG = {
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n" + b" " * 65536,
    "head": b"HTTP/1.1 200 OK\r\nA: " + b"b" * 65536 + b"\r\nContent-Length: 0\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000,
}


class Server:
    """A server that answers each request with the same bytes."""

    def __init__(self, answer: bytes, *, closes: bool = False) -> None:
        self.answer = answer
        self.closes = closes
        self.heads: list[bytes] = []
        self.open = 0
        self.connections = 0
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.open += 1
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self.answer)
                if self.closes:
                    break
        self.open -= 1
        writer.close()

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


Serve = Callable[..., contextlib.AbstractAsyncContextManager[Server]]


@pytest.fixture
def serve() -> Serve:
    @contextlib.asynccontextmanager
    async def begin(
        answer: bytes = PLAIN, *, closes: bool = False, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[Server]:
        server = Server(answer, closes=closes)
        async with listening(server.serve, tls) as url:
            server.url = f"{url}/image"
            try:
                yield server
            finally:
                await server.close()

    return begin


@pytest.fixture
async def kept() -> AsyncIterator[KeptConnections]:
    async with keep_connections(10) as kept:
        yield kept


async def test_questions_share_a_connection(serve: Serve, kept: KeptConnections) -> None:
    async with serve() as server:
        for _ in range(3):
            reply = await kept.ask(server.url, PATH, "GET", {"X-Auth-Token": "secret"}, None)
            assert reply is not None
            assert (reply.status, reply.body) == (404, b"no")
            assert reply.headers["x-openstack-request-id"] == "req-1"
        assert server.connections == 1
        head = server.heads[-1].decode()
    line, *fields = head.splitlines()
    assert line == f"GET /image{PATH} HTTP/1.1"
    assert {"X-Auth-Token: secret", "Accept-Encoding: identity", "X-Resolver-Hop: 1"} < set(fields)
    assert f"Host: {server.url.split('/')[2]}" in fields


async def test_an_answer_to_head_has_no_body(serve: Serve, kept: KeptConnections) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    async with serve(answer) as server:
        for _ in range(2):
            reply = await kept.ask(server.url, PATH, "HEAD", {}, None)
            assert reply is not None
            assert (reply.status, reply.body) == (200, b"")
        assert server.connections == 1


@pytest.mark.parametrize("answer", UNUSUAL.values(), ids=UNUSUAL)
async def test_an_unusual_answer_is_not_read(
    serve: Serve, kept: KeptConnections, answer: bytes
) -> None:
    async with serve(answer) as server:
        assert await kept.ask(server.url, PATH, "GET", {}, None) is None
        await wait_until(lambda: not server.open, message="the connection is closed")
        server.answer = PLAIN
        assert await kept.ask(server.url, PATH, "GET", {}, None) is None
        assert len(server.heads) == 1, "it is asked through the other client for some time"


@pytest.mark.parametrize("answer", LONG.values(), ids=LONG)
async def test_a_long_answer_is_for_the_other_client(
    serve: Serve, kept: KeptConnections, answer: bytes
) -> None:
    async with serve(answer) as server:
        assert await kept.ask(server.url, PATH, "GET", {}, None) is None
        await wait_until(lambda: not server.open, message="the connection is closed")
        server.answer = PLAIN
        assert await kept.ask(server.url, PATH, "GET", {}, None), "the next may be short"


async def test_what_comes_without_a_question_closes_the_connection() -> None:
    connection, transport = connected()
    asking = asyncio.ensure_future(connection.ask(b"GET", has_body=True))
    await asyncio.sleep(0)
    connection.data_received(PLAIN)
    assert (await asking) is not None
    connection.data_received(PLAIN)
    assert transport.is_closing()
    assert await connection.ask(b"GET", has_body=True) is None


async def test_a_closed_connection_is_replaced(serve: Serve, kept: KeptConnections) -> None:
    async with serve(closes=True) as server:

        async def is_answered() -> bool:
            """False while the end of the last connection is still on its way."""
            return await kept.ask(server.url, PATH, "GET", {}, None) is not None

        for _ in range(3):
            await wait_until(is_answered)
        assert server.connections == 3
        server.answer = PLAIN.replace(b"X-Open", b"Connection: close\r\nX-Open")
        await wait_until(is_answered)
        server.answer = b""
        assert not await is_answered(), "the other client asks"
        server.answer = PLAIN
        assert await is_answered(), "it is not avoided for that"


async def test_a_server_that_is_silent_is_left_in_time(serve: Serve) -> None:
    async with serve(PLAIN[:-1]) as server, keep_connections(0.05) as kept:
        with pytest.raises(TimeoutError):
            await kept.ask(server.url, PATH, "GET", {}, None)
        await wait_until(lambda: not server.open, message="the connection is closed")


async def test_a_question_that_is_cancelled_closes_its_connection(
    serve: Serve, kept: KeptConnections
) -> None:
    async with serve(PLAIN[:-1]) as server:
        asking = asyncio.ensure_future(kept.ask(server.url, PATH, "GET", {}, None))
        await wait_until(lambda: server.heads)
        asking.cancel()
        await wait_until(lambda: not server.open, message="the connection is closed")


async def test_a_connection_closes_when_it_is_idle(serve: Serve) -> None:
    async with serve() as server, keep_connections(10, idle_seconds=0.05) as kept:
        assert await kept.ask(server.url, PATH, "GET", {}, None)
        await wait_until(lambda: not server.open, message="the connection is closed")
        assert await kept.ask(server.url, PATH, "GET", {}, None)


async def test_a_connection_is_not_used_for_long(serve: Serve) -> None:
    """The next one goes to the address that the location has by then."""
    async with serve() as server, keep_connections(10, lifetime_seconds=0) as kept:
        for count in (1, 2, 3):
            assert await kept.ask(server.url, PATH, "GET", {}, None)
            assert server.connections == count
        await wait_until(lambda: not server.open, message="the connections are closed")


async def test_the_connections_end_with_the_process(serve: Serve) -> None:
    async with serve() as server:
        async with keep_connections(10) as kept:
            assert await kept.ask(server.url, PATH, "GET", {}, None)
            assert server.open == 1
        await wait_until(lambda: not server.open, message="the connection is closed")


@pytest.mark.parametrize(
    ("path", "token"),
    [("/v2/images/a b", ""), ("/v2/images/\r\nX: y", ""), ("/%2e%2e", ""), ("/a?b=c?d", "")]
    + [(PATH, token) for token in ("a\r\nX: y", "a\n", "\0", "\u00e9", " a")],
)
async def test_what_cannot_be_sent_as_it_is_is_not_sent(
    serve: Serve, kept: KeptConnections, path: str, token: str
) -> None:
    async with serve() as server:
        assert await kept.ask(server.url, path, "GET", {"X-Auth-Token": token}, None) is None
        assert not server.connections


@pytest.mark.parametrize(
    "options", [{"allowed_hosts": ["10.0.0.0/8"]}, {"allowed_hosts": ["*.example"]}]
)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_host_that_is_not_allowed_is_not_asked(
    serve: Serve, options: dict[str, list[str]], host: str
) -> None:
    async with serve() as server, keep_connections(10, **options) as kept:
        url = server.url.replace("127.0.0.1", host)
        with pytest.raises(LocationUnavailable, match="RESOLVER_ALLOWED_HOSTS"):
            await kept.ask(url, PATH, "GET", {}, None)
        assert not server.connections


async def test_https_is_required_where_it_is_set() -> None:
    async with keep_connections(10, require_https=True) as kept:
        with pytest.raises(LocationUnavailable, match="RESOLVER_REQUIRE_HTTPS"):
            await kept.ask("http://192.0.2.1", PATH, "GET", {}, None)


async def test_a_certificate_is_verified(
    serve: Serve, kept: KeptConnections, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    files = authority.issue()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files.cert, files.key)
    async with serve(tls=tls) as server:
        trusting = authority.client()
        for _ in range(2):
            reply = await kept.ask(server.url, PATH, "GET", {}, trusting)
            assert reply is not None
        assert len(server.heads) == 2
        assert server.connections == 1
        assert await kept.ask(server.url, PATH, "GET", {}, None) is None
        assert len(server.heads) == 2, "the default does not trust this authority"


class Transport(asyncio.Transport):
    """A transport that leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self._closing = False

    def write(self, data: object) -> None:
        pass

    def is_closing(self) -> bool:
        return self._closing

    def abort(self) -> None:
        self._closing = True


def connected() -> tuple[KeptConnection, Transport]:
    connection, transport = KeptConnection([], 10, 60), Transport()
    connection.connection_made(transport)
    return connection, transport


@given(st.lists(st.integers(1, len(PLAIN)), max_size=4), st.binary(max_size=3), st.integers(0, 99))
def test_an_answer_may_arrive_in_parts_and_may_be_damaged(
    sizes: list[int], noise: bytes, at: int
) -> None:
    answer = PLAIN[:at] + noise + PLAIN[at + len(noise) :]

    async def read() -> None:
        connection, transport = connected()
        asking = asyncio.ensure_future(connection.ask(b"GET", has_body=True))
        await asyncio.sleep(0)
        for part in parts(answer, sizes):
            if not transport.is_closing():
                connection.data_received(part)
            await asyncio.sleep(0)
        connection.connection_lost(None)
        try:
            reply = await asking
        except UnusualAnswer:
            return
        if answer == PLAIN:
            assert reply is not None
            assert (reply.status, reply.body) == (404, b"no")

    asyncio.run(read())


def parts(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_both_clients_read_the_same(version: str) -> None:
    async with (
        StandIn(v1=True, prefix="/image") as standin,
        keep_connections(10) as kept,
        connect(10) as session,
    ):
        image = standin.add(name="debian")
        location = Location(name="one", url=standin.url)
        images = f"/{version}/images"
        one = {"id": f"in:{image.id},{image.id}", "limit": "1"}
        for path, params in (
            *((f"{images}/{image.id}", {}), (f"{images}/none", {}), (images, one)),
            *(("/versions", {}), ("/x", {})),
        ):
            method = "HEAD" if version == "v1" and path.count("/") > 2 else "GET"
            target = f"{path}?{urlencode(params, safe=':,')}" if params else path
            plain = await kept.ask(standin.url, target, method, {}, None)
            other = await GlanceServer(session, location).request(path, params, method=method)
            assert plain is not None
            assert (plain.status, plain.body) == (other.status, other.body)
            changing = {"date", "x-openstack-request-id"}
            for name in {*map(str.lower, plain.headers), *map(str.lower, other.headers)} - changing:
                assert plain.headers.getall(name) == other.headers.getall(name)


async def chunked(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    response.enable_chunked_encoding()
    return response


async def test_a_server_with_unusual_answers_still_proves_absence() -> None:
    async with clouds() as cloud:
        await cloud.add("one")
        cloud.set_fault("one", chunked)
        for number in range(2):
            text = f"00000000-0000-4000-8000-00000000000{number}"
            assert (await cloud.resolve(text)).outcome == "absent"
        assert cloud.image_requests("one") == 3, "the first question was asked by both clients"


@pytest.mark.glance
async def test_a_real_glance_answers_plainly(glance_pair: Pair, kept: KeptConnections) -> None:
    name, image = glance_pair.with_data()[0]
    server = glance_pair.servers[name]
    absent = "00000000-0000-4000-8000-000000000000"
    paths = {f"/v2/images/{image.id}": 200, f"/v2/images/{absent}": 404, f"/v2/tasks/{absent}": 404}
    for path, status in paths.items():
        for _ in range(2):
            reply = await kept.ask(server.url, path, "GET", {"X-Auth-Token": server.token}, None)
            assert reply is not None
            assert reply.status == status
            assert "X-Openstack-Request-Id" in reply.headers
            assert path.rpartition("/")[2].encode() in reply.body
