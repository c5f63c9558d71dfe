"""Request smuggling: a proxy and the gateway behind it must agree where each request ends.

Both are real. Each attack goes through HAProxy and through nginx, which share their connections to
the gateway between clients. The gateway must see the requests that the proxy passed on and no
others, and the next client must get the answer to its own request. This holds for the public port
and for the management port, whose attacks ask for locations instead of images.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from typing import NamedTuple

import pytest

from resolver.models import parse_id
from tests.conftest import started
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.support.balancers import Balancer, Haproxy, Nginx
from tests.support.process import free_port
from tests.support.wait import wait_until

N = "NNNNNNNNNNNN"
"""Placeholder for the number of an attack, which is a part of all its image ids."""

KNOWN, POISON, VICTIM = (
    f"{head}-0000-4000-8000-{N}" for head in ("aaaaaaaa", "deadbeef", "f1f1f1f1")
)
"""Image ids of the visible part of an attack, of its hidden part, and of the next client."""

HIDDEN = f"GET /v2/images/{POISON} HTTP/1.1\r\nHost: hidden\r\n\r\n"
OPEN = f"GET /v2/images/{POISON} HTTP/1.1\r\nHost: hidden\r\nX-Rest: "
"""The same without an end: it would swallow the next bytes on the connection."""

POST = f"POST /resolve?exclude={N} HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"
FAST_PATH = f"GET /v2/images/{KNOWN} HTTP/1.1\r\nHost: a\r\n"


SILENCE_SECONDS = 0.2
"""How long to read from a connection that stays open."""
CLOSE_TIMEOUT_SECONDS = 30.0


def chunked(*chunks: str) -> str:
    return "".join(f"{len(chunk):x}\r\n{chunk}\r\n" for chunk in chunks) + "0\r\n\r\n"


def both(first: str, second: str, body: str) -> str:
    return f"{POST}{first}\r\n{second}\r\n\r\n{body}"


END = "0\r\n\r\n"
LATE = END + OPEN
SHORT = f"{len(HIDDEN):x}\r\n{HIDDEN}\r\n{END}"
TE = "Transfer-Encoding: chunked"

LENGTHS = {
    "CL.TE": both(f"Content-Length: {len(LATE)}", TE, LATE),
    "TE.CL": both(TE, "Content-Length: 4", SHORT),
    "twice the same": both("Content-Length: 2", "Content-Length: 2", "ab"),
    "two that differ": both(f"Content-Length: {len(OPEN)}", "Content-Length: 0", OPEN),
    "two that differ, short first": both("Content-Length: 0", f"Content-Length: {len(OPEN)}", OPEN),
    "a list": f"{POST}Content-Length: 0, {len(OPEN)}\r\n\r\n{OPEN}",
    "a list of the same": f"{POST}Content-Length: 2, 2\r\n\r\nab{HIDDEN}",
    "a sign": f"{POST}Content-Length: +{len(OPEN)}\r\n\r\n{OPEN}",
    "negative": f"{POST}Content-Length: -1\r\n\r\n{OPEN}",
    "hexadecimal": f"{POST}Content-Length: 0x10\r\n\r\n{OPEN}",
    "underscore": f"{POST}Content-Length: 1_0\r\n\r\n{OPEN}",
    "spaces within": f"{POST}Content-Length: 1 0\r\n\r\n{OPEN}",
    "a fraction": f"{POST}Content-Length: 1.0\r\n\r\n{OPEN}",
    "too large for any": f"{POST}Content-Length: 184467440737095516160\r\n\r\n{OPEN}",
    "empty": f"{POST}Content-Length:\r\n\r\n{OPEN}",
    "other digits": f"{POST}Content-Length: \u00b2\r\n\r\n{OPEN}",
    "zeros before": f"{POST}Content-Length: 000{len(OPEN)}\r\n\r\n{OPEN}",
}

CODINGS = [
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding:\tchunked",
    "Transfer-Encoding:chunked",
    "Transfer-Encoding: chunked\t",
    "Transfer-Encoding: CHUNKED",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked;q=1",
    'Transfer-Encoding: "chunked"',
    "Transfer-Encoding: chun ked",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding: chunked\x00",
    "Transfer-Encoding: \xa0chunked",
    "Transfer-Encoding: ,chunked",
    "Transfer-Encoding:",
    "Transfer-Encoding:\r\n chunked",
    " Transfer-Encoding: chunked",
    "X: y\r\n Transfer-Encoding: chunked",
    "X: y\nTransfer-Encoding: chunked",
    "X: y\rTransfer-Encoding: chunked",
    "Transfer-Encoding\n: chunked",
    "Transfer-Encoding\r: chunked",
    "Transfer-Encoding\x00: chunked",
    "Transfer_Encoding: chunked",
    "Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding",
]

CHUNKS = {
    "extension": "2;a=b\r\nab\r\n0\r\n\r\n",
    "extension in quotes": '2;a="b;\\"c";d;e=f\r\nab\r\n0\r\n\r\n',
    **{
        f"extension {text!r}": f"2;{text}\r\nab\r\n0\r\n\r\n{HIDDEN}"
        for text in ('a="', 'a="b', "", "=", '="x"', "a b", "a=b c", 'a="b"c', "{}", "a=", 'a="\\"')
    },
    "extension with a quoted end": f'2;a="\r\nab\r\n0\r\n\r\n{HIDDEN}"\r\nab\r\n0\r\n\r\n',
    "last chunk's extension": f'2\r\nab\r\n0;a="\r\n\r\n{HIDDEN}',
    "extension with LF": f"2;a\nx\r\nab\r\n0\r\n\r\n{HIDDEN}",
    "extension with a hidden end": f"2;\nab\r\n{len(HIDDEN) + 5:x}\r\n{END}{HIDDEN}\r\n{END}",
    "extension that is long": "2;" + "a" * 100_000 + "\r\nab\r\n0\r\n\r\n",
    "space before extension": "2 ;a=b\r\nab\r\n0\r\n\r\n",
    "space behind size": f"2 \r\nab\r\n0\r\n\r\n{HIDDEN}",
    "space before size": f" 2\r\nab\r\n0\r\n\r\n{HIDDEN}",
    "sign": f"+2\r\nab\r\n0\r\n\r\n{HIDDEN}",
    "negative": f"-2\r\nab\r\n0\r\n\r\n{HIDDEN}",
    "hexadecimal": f"0x2\r\nab\r\n0\r\n\r\n{HIDDEN}",
    "underscore": f"0_2\r\nab\r\n0\r\n\r\n{HIDDEN}",
    "zeros": f"0002\r\nab\r\n0\r\n\r\n{HIDDEN}",
    "too large": f"fffffffffffffffe2\r\nab\r\n0\r\n\r\n{HIDDEN}",
    "overflows": f"10000000000000002\r\nab\r\n0\r\n\r\n{HIDDEN}",
    "LF behind size": f"2\nab\r\n0\r\n\r\n{HIDDEN}",
    "LF behind data": f"2\r\nab\n0\r\n\r\n{HIDDEN}",
    "CR behind size": f"2\rab\r\n0\r\n\r\n{HIDDEN}",
    "nothing behind data": f"2\r\nab0\r\n\r\n{HIDDEN}",
    "more data than announced": f"2\r\nabc\r\n0\r\n\r\n{HIDDEN}",
    "LF at the end": f"2\r\nab\r\n0\n\n{HIDDEN}",
    "no end": "2\r\nab\r\n",
    "trailers": f"2\r\nab\r\n0\r\nContent-Length: 5\r\nHost: b\r\n\r\n{HIDDEN}",
    "trailer with LF": f"2\r\nab\r\n0\r\nA: b\n\r\n{HIDDEN}",
    "size is no number": f"GET\r\nab\r\n0\r\n\r\n{HIDDEN}",
    "whole": chunked("ab", HIDDEN),
}

UPGRADE = "Connection: Upgrade"
H2C = "HTTP2-Settings: AA"
WEBSOCKET = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
POST_1_0 = POST.replace("1.1", "1.0")

OTHERS = {
    "body on GET": f"{FAST_PATH}Content-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}",
    "body on GET, chunked": f"{FAST_PATH}{TE}\r\n\r\n{chunked(HIDDEN)}",
    "body on GET, CL.TE": f"{FAST_PATH}Content-Length: {len(LATE)}\r\n{TE}\r\n\r\n{LATE}",
    "body on HEAD": f"HEAD{FAST_PATH[3:]}Content-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}",
    "body on DELETE": f"DELETE{FAST_PATH[3:]}Content-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}",
    "body that is not read": f"PUT{FAST_PATH[3:]}Content-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}",
    "body that is not read, chunked": f"PUT{FAST_PATH[3:]}{TE}\r\n\r\n{chunked(HIDDEN)}",
    "body where nothing is": f"PUT /none HTTP/1.1\r\nHost: a\r\n{TE}\r\n\r\n{chunked(HIDDEN)}",
    "body without length": f"{POST}\r\n{HIDDEN}",
    "half a body": f"{POST}Content-Length: 500\r\n\r\n{HIDDEN}",
    "pipelined": f"{FAST_PATH}\r\n{FAST_PATH}\r\n{HIDDEN}",
    "pipelined behind a body": f"{POST}Content-Length: 2\r\n\r\nab{HIDDEN}",
    "LF only": f"{FAST_PATH}\r\n{HIDDEN}".replace("\r\n", "\n"),
    "LF at the end of the fields": f"{FAST_PATH}A: b\n\r\n{HIDDEN}",
    "CR alone in a value": f"{FAST_PATH}A: b\rContent-Length: {len(OPEN)}\r\n\r\n{OPEN}",
    "LF alone in a value": f"{FAST_PATH}A: b\nContent-Length: {len(OPEN)}\r\n\r\n{OPEN}",
    "CR alone as line end": f"{FAST_PATH}\r\n".replace("\r\n", "\r") + HIDDEN,
    "null in a value": f"{FAST_PATH}A: b\x00c\r\nContent-Length: {len(OPEN)}\r\n\r\n{OPEN}",
    "space before the colon": f"{POST}Content-Length : {len(OPEN)}\r\n\r\n{OPEN}",
    "tab before the colon": f"{POST}Content-Length\t: {len(OPEN)}\r\n\r\n{OPEN}",
    "folded": f"{POST}Content-Length:\r\n {len(OPEN)}\r\n\r\n{OPEN}",
    "first field is folded": f"{POST.replace('Host', ' Content-Length', 1)}\r\n{OPEN}",
    "hop by hop": f"{POST}Connection: Content-Length\r\nContent-Length: {len(OPEN)}\r\n\r\n{OPEN}",
    "underscore in the name": f"{POST}Content_Length: {len(OPEN)}\r\n\r\n{OPEN}",
    "expects": f"{POST}Expect: 100-continue\r\nContent-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}",
    "expects something else": (
        f"{FAST_PATH}Expect: x\r\nContent-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}"
    ),
    "upgrade": f"{FAST_PATH}{UPGRADE}, HTTP2-Settings\r\nUpgrade: h2c\r\n{H2C}\r\n\r\n{HIDDEN}",
    "websocket": f"{FAST_PATH}{UPGRADE}\r\nUpgrade: websocket\r\n{WEBSOCKET}\r\n\r\n{HIDDEN}",
    "HTTP/1.0 kept alive": f"{POST_1_0}Connection: keep-alive\r\n{TE}\r\n\r\n{chunked(HIDDEN)}",
    "HTTP/0.9": f"GET /v2/images/{POISON}\r\n\r\n{HIDDEN}",
    "HTTP/1.2": f"{FAST_PATH.replace('1.1', '1.2')}\r\n{HIDDEN}",
    "HTTP/11.1": f"{FAST_PATH.replace('1.1', '11.1')}\r\n{HIDDEN}",
    "HTTP/2": f"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{HIDDEN}",
    "spaces in the request line": f"{FAST_PATH.replace(' HTTP', '  HTTP')}\r\n{HIDDEN}",
    "LF in the request line": f"{FAST_PATH.replace(' HTTP', ' X' + chr(10) + 'HTTP')}\r\n{HIDDEN}",
    "two hosts": f"{FAST_PATH}Host: b\r\n\r\n{HIDDEN}",
    "no host": f"GET /v2/images/{POISON} HTTP/1.1\r\n\r\n{HIDDEN}",
    "absolute form": f"GET http://b/v2/images/{POISON} HTTP/1.1\r\nHost: a\r\n\r\n{HIDDEN}",
    "CONNECT": f"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n{HIDDEN}",
    "TRACE": f"TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}",
    "empty lines before": f"\r\n\r\n{FAST_PATH}\r\n{HIDDEN}",
    "lower-case method": f"get{FAST_PATH[3:]}\r\n{HIDDEN}",
}

ATTACKS = {
    **{f"length: {name}": text for name, text in LENGTHS.items()},
    **{
        f"coding {n}: {order}": both(*lines, body)
        for n, coding in enumerate(CODINGS)
        for order, lines, body in (
            ("CL.TE", (f"Content-Length: {len(LATE)}", coding), LATE),
            ("TE.CL", (coding, "Content-Length: 4"), SHORT),
            ("alone", ("X-A: b", coding), chunked("ab") + HIDDEN),
        )
    },
    **{f"chunk: {name}": f"{POST}{TE}\r\n\r\n{text}" for name, text in CHUNKS.items()},
    **{f"other: {name}": text for name, text in OTHERS.items()},
}


PLAIN = {
    *("length: zeros before", "chunk: zeros", "chunk: whole", "chunk: no end"),
    *("chunk: extension", "chunk: extension in quotes"),
    *(f"coding {n}: alone" for n in (2, 3, 4, 5, 30)),
    "coding 29: CL.TE",
    *(f"other: body on {what}" for what in ("GET", "GET, chunked", "HEAD", "DELETE")),
    *(f"other: body {what}" for what in ("that is not read", "that is not read, chunked")),
    *("other: body where nothing is", "other: body without length", "other: half a body"),
    *("other: pipelined", "other: pipelined behind a body", "other: hop by hop"),
    *("other: underscore in the name", "other: expects", "other: expects something else"),
    *("other: upgrade", "other: websocket"),
    *("other: absolute form", "other: TRACE", "other: empty lines before"),
}
"""Attacks that have one meaning by RFC 9112, and are answered."""

ANSWERED_FIRST = {"coding 29: TE.CL", "coding 29: alone"}
"""Attacks that begin with a request of one meaning (``Transfer_Encoding`` is a field like any
other). What follows is refused."""

ATTACKERS = 8


class Port(NamedTuple):
    """One of the gateway's ports, and what the next client gets there."""

    number: int
    path: str
    """Takes the place of ``/v2/images/`` in attacks, so it is as long: lengths stay right."""
    victim_status: str
    victim_text: str
    """What its answer contains, with the id of the image for ``{image}``."""


IMAGES = "/v2/images/"
LOCATIONS = "/locations/"


class Exchange(NamedTuple):
    text: str
    is_closed: bool
    """Whether the other side closed the connection."""


async def exchange(port: int, text: str, *, silence: float = CLOSE_TIMEOUT_SECONDS) -> Exchange:
    """Everything that arrives until the other side closes, or sends nothing for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received, is_closed = b"", False
    try:
        writer.write(text.encode("latin-1"))
        while not is_closed:
            async with asyncio.timeout(silence):
                data = await reader.read(65536)
            received += data
            is_closed = not data
    except ConnectionError:
        is_closed = True
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()
    return Exchange(received.decode("latin-1"), is_closed)


class RequestLog(logging.Handler):
    """The requests in the log of the gateway, and the number of malformed ones."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.requests: Counter[str] = Counter()
        self.malformed = 0

    def emit(self, record: logging.LogRecord) -> None:
        event = record.msg if isinstance(record.msg, dict) else {}
        if event.get("event") == "request":
            self.requests[f"{event['method']} {event['path']}"] += 1
        elif event.get("event") == "malformed request":
            self.malformed += 1

    @property
    def count(self) -> int:
        return self.requests.total() + self.malformed


@pytest.fixture
def seen(caplog: pytest.LogCaptureFixture) -> Iterator[RequestLog]:
    caplog.set_level(logging.INFO)
    handler = RequestLog()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


@pytest.fixture(params=["public", "management"])
async def port(request: pytest.FixtureRequest, start: Start) -> Port:
    """A port of a gateway with the images of every attack."""
    if request.param == "management":
        management_port = free_port()
        await start(management_port=management_port)
        return Port(management_port, LOCATIONS, "404", "{image}")
    gateway = await start()
    number = await gateway.location("one")
    images = [numbered(image, n) for n in range(len(ATTACKS)) for image in (KNOWN, POISON, VICTIM)]
    await gateway.services.index.claims.claim(number, map(parse_id, images))
    target = "location: https://one.example:9292/v2/images/{image}\r\n"
    return Port(port_of(gateway), IMAGES, "307", target)


def port_of(gateway: Gateway) -> int:
    return int(gateway.url.rpartition(":")[2])


def numbered(text: str, n: int) -> str:
    return text.replace(N, f"{n:012d}")


def attack_text(port: Port, number: int) -> str:
    return numbered([*ATTACKS.values()][number], number).replace(IMAGES, port.path)


def statuses(text: str) -> list[str]:
    # The body of the answer before may end without a line break.
    return re.findall(r"HTTP/1\.[01] (\d{3}) ", text)


async def run_attacks(attack: Callable[[int], Awaitable[None]]) -> None:
    """Runs all attacks, `ATTACKERS` at a time."""
    numbers = iter(range(len(ATTACKS)))

    async def attacker() -> None:
        for number in numbers:
            await attack(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(ATTACKERS):
            group.create_task(attacker())


async def test_ambiguous_requests_are_refused_and_end_the_connection(
    port: Port, seen: RequestLog
) -> None:
    wrong: dict[str, str] = {}

    async def attack(number: int) -> None:
        name = [*ATTACKS][number]
        text = attack_text(port, number)
        if name in PLAIN:
            response = await exchange(port.number, text, silence=SILENCE_SECONDS)
            if "400" in statuses(response.text):
                wrong[name] = "it is refused"
            return
        response = await exchange(port.number, text)
        found = statuses(response.text)
        if name in ANSWERED_FIRST:
            if found[-1] != "400" or not response.is_closed:
                wrong[name] = f"what follows it is not refused: {response}"
            return
        if found != ["400"] or not response.is_closed:
            wrong[name] = f"it is not refused: {response}"
        if any(numbered(POISON, number) in target for target in seen.requests):
            wrong[name] = "its hidden request is answered"

    await run_attacks(attack)
    assert not wrong
    assert 2 * seen.malformed > len(ATTACKS)


async def ask_as_victim(asked: int, port: Port, number: int) -> None:
    """Another client asks, and gets the answer to its own request."""
    image, request_id = numbered(VICTIM, number), f"req-{uuid.uuid4()}"
    request = f"GET {port.path}{image} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    request += f"Authorization: {ADMIN['Authorization']}\r\n"
    response, _ = await exchange(asked, f"{request}X-Openstack-Request-Id: {request_id}\r\n\r\n")
    name = [*ATTACKS][number]
    assert statuses(response) == [port.victim_status], f"attack {name!r}: {response}"
    assert port.victim_text.format(image=image) in response.lower()
    assert request_id in response


@pytest.mark.balancer
@pytest.mark.parametrize("kind", [Haproxy, Nginx])
async def test_a_proxy_and_the_gateway_agree_on_every_request(
    port: Port, seen: RequestLog, kind: type[Balancer]
) -> None:
    balancer = started(kind(port.number))

    async def attack(number: int) -> None:
        text = attack_text(port, number)
        response = await exchange(balancer.port, text, silence=SILENCE_SECONDS)
        assert VICTIM[:8] not in response.text, [*ATTACKS][number]
        await ask_as_victim(balancer.port, port, number)

    # The proxy has turned an absolute target into a path, and CONNECT has none.
    bare = re.compile(r"(?<= )https?://[^/]+|(?<=^CONNECT ).*")

    def passed_on() -> Counter[str]:
        return Counter(bare.sub("", request) for request in balancer.passed_on())

    with closing(balancer):
        await run_attacks(attack)
        # The hidden part of an attack would precede the next request on its connection.
        await asyncio.gather(*(ask_as_victim(balancer.port, port, n) for n in range(ATTACKERS)))
        await wait_until(lambda: passed_on().total() == seen.count >= len(ATTACKS))
        sent = passed_on()
    assert seen.requests - sent == Counter(), "the gateway read a request that was not sent to it"
    assert (sent - seen.requests).total() == seen.malformed, sent - seen.requests
    assert sent.total() > len(ATTACKS), "attacks pass the balancer"
