"""The whole index as a stream of text, out and in."""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog
from aiohttp import web

from resolver.errors import Conflict, InvalidLocation, ResolverError, UnsupportedMediaType
from resolver.gateway.api.locations import admin_only
from resolver.gateway.app_keys import ADMIN, SERVICES
from resolver.gateway.problem import json_response
from resolver.gateway.reply import NO_STORE
from resolver.gateway.request_body import body_timeout_error
from resolver.index import ImageRows, walk
from resolver.models import Location
from resolver.registry.export_format import Block, Head, Reader, Writer, fields_of
from resolver.services import Services

TEXT = "text/plain; charset=us-ascii"

ROWS = 1024
"""Images made into text before others have their turn: some 2 ms."""

AHEAD = 4
"""Blocks of claims under way at the same time, so that Redis and this process both have work."""

GZIP = 16 + zlib.MAX_WBITS
"""What tells zlib that there is a gzip head."""

UNPACKED = 65_536
"""Bytes of a compressed file that are unpacked at a time."""

T = TypeVar("T")

log = structlog.get_logger("dump")


@admin_only
async def export_index(request: web.Request) -> web.StreamResponse:
    """GET /index/export."""
    services = request.app[SERVICES]
    table = await services.tables.current()
    writer = Writer(view.location for view in table.by_name.values())
    walked = walk(services.index.claims)
    rows = await _after(walked)  # what cannot be had shows before the first byte
    response = web.StreamResponse(headers={**NO_STORE, "Content-Type": TEXT})
    await response.prepare(request)
    try:
        await response.write(writer.head())
        while rows:
            async with _meanwhile(_after(walked)) as following:
                for start in range(0, len(rows), ROWS):
                    await response.write(writer.add(rows[start : start + ROWS]))
                    await asyncio.sleep(0)
                rows = await following
    except ResolverError as error:
        log.warning("export stopped", reason=str(error))
        await response.write(writer.error(error.detail))
        _break_off(request)
    except ConnectionError:  # the client has gone, which is its right
        _break_off(request)
    else:
        await response.write(writer.end())
    return response


def _break_off(request: web.Request) -> None:
    """Closes the connection when all is sent that was written, so that no stream looks whole."""
    if request.transport is not None:
        request.transport.close()


async def _after(walked: AsyncIterator[ImageRows]) -> ImageRows:
    """The next images; none at the end."""
    async for rows in walked:
        if rows:
            return rows
    return []


@asynccontextmanager
async def _meanwhile(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Work that goes on during the block and does not outlive it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@admin_only
async def import_index(request: web.Request) -> web.StreamResponse:
    """POST /index/import."""
    reader, work = Reader(), Import(request.app[SERVICES], request.host, request[ADMIN])
    try:
        async for data in _body(request):
            for part in reader.feed(data):
                await work.take(part)
        reader.close()
        await work.settle()
        await request.app[SERVICES].index.audit.record(request[ADMIN], "import")
    except ResolverError as error:
        await work.stop()
        error.detail += f"; {work.applied()}"
        error.extra["applied"] = work.figures()
        raise
    finally:
        await work.stop()
    return json_response(work.figures())


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it comes, unpacked. Where it breaks off it ends, since the reader sees that best.

    Raises:
        UnsupportedMediaType: it is compressed otherwise than with gzip.
        RequestTimeout: nothing came of it for too long.
    """
    coding = request.headers.get("Content-Encoding", "identity").lower()
    if coding not in ("identity", "gzip"):
        raise UnsupportedMediaType(
            f"send the file as it is or with `Content-Encoding: gzip`, not {coding[:40]!r}",
            headers={"Accept-Encoding": "gzip"},
        )
    seconds = request.app[SERVICES].settings.client_timeout
    parts = aiter(request.content.iter_any())
    unpacker = zlib.decompressobj(GZIP)
    try:
        while True:
            async with asyncio.timeout(seconds):
                sent = await anext(parts, b"")
            if not sent:
                return
            if coding == "identity":
                yield sent
                continue
            data = sent
            while data:
                yield unpacker.decompress(data, UNPACKED)
                data = unpacker.unconsumed_tail
                if unpacker.eof:  # RFC 1952, 2.2: another member may follow
                    data, unpacker = unpacker.unused_data, zlib.decompressobj(GZIP)
    except TimeoutError as error:
        raise body_timeout_error(seconds) from error
    except (ConnectionError, web.RequestPayloadError, zlib.error) as error:
        log.warning("import broke off", reason=str(error))


class Import:
    """What one import does to the registry and the claims. All of it may be done again."""

    def __init__(self, services: Services, host: str, by: str) -> None:
        self._services = services
        self._host = host
        self._by = by
        self._targets: list[Location] = []
        """By number in the file."""
        self._under_way: deque[asyncio.Task[None]] = deque()
        self._registered: list[str] = []
        self._images = self._claims = self._new = 0

    def figures(self) -> dict[str, Any]:
        """What was done so far."""
        return {
            "locations": len(self._targets),
            "registered": self._registered,
            "images": self._images,
            "claims": self._claims,
            "new": self._new,
        }

    def applied(self) -> str:
        """The same for people, where it did not come to its end."""
        if not self._registered and not self._claims:
            return "nothing was imported"
        names = ", ".join(self._registered)
        return (
            f"{self._images} images with {self._claims} claims were imported before that"
            + (f", and registered: {names}" if names else "")
            + "; a whole file can be imported over it"
        )

    async def take(self, part: Head | Block) -> None:
        """Registers, or begins to claim.

        Raises:
            InvalidLocation: a location is not allowed here.
            Conflict: a location is another server here, or was removed meanwhile.
            IndexUnavailable: when Redis does not answer.
        """
        if isinstance(part, Head):
            await self._register(part.locations)
            return
        if len(self._under_way) >= AHEAD:
            await self._under_way[0]
            self._under_way.popleft()
        self._under_way.append(asyncio.create_task(self._claim(part)))
        await asyncio.sleep(0)

    async def settle(self) -> None:
        """Waits until all is done."""
        while self._under_way:
            await self._under_way[0]
            self._under_way.popleft()

    async def stop(self) -> None:
        """Waits until nothing is under way, whatever becomes of it."""
        tasks = list(self._under_way)
        self._under_way.clear()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _register(self, wanted: Sequence[Location]) -> None:
        """Sees to it that all locations are there. Looks at all before it adds one."""
        registry, tables = self._services.registry, self._services.tables
        there = (await tables.current()).by_name
        missing = []
        for location in wanted:
            if location.name not in there:
                try:
                    # The same that `put` asks, which would tell only after others were added.
                    await registry.check_target(location.url, self._host)
                except InvalidLocation as error:
                    error.detail = f"location {location.name!r}: {error.detail}"
                    raise
                missing.append(location)
            elif there[location.name].location.url != location.url:
                raise Conflict(
                    f"location {location.name!r} is {there[location.name].location.url} here and "
                    f"{location.url} in the file: remove it here or set its URL first",
                    code="other-location",
                )
        for location in missing:
            await registry.put(location.name, fields_of(location), host=self._host, by=self._by)
            self._registered.append(location.name)
        there = (await tables.current()).by_name
        if gone := [location.name for location in wanted if location.name not in there]:
            raise _removed(gone[0])
        self._targets = [there[location.name].location for location in wanted]

    async def _claim(self, block: Block) -> None:
        claims = self._services.index.claims
        new = 0
        for local, ids in block.owned.items():
            new += await claims.claim(self._targets[local].number, ids)
        # Looked at afterwards: whoever collects a removed location's claims may have been here.
        there = (await self._services.tables.current()).by_number
        for local, ids in block.owned.items():
            target = self._targets[local]
            if target.number not in there:
                await claims.release(target.number, ids)
                raise _removed(target.name)
        self._images += block.images
        self._claims += block.claims
        self._new += new


def _removed(name: str) -> Conflict:
    return Conflict(f"location {name!r} was removed, or given another URL, during the import")
