"""``/index/export`` and ``/index/import``: the whole index as a stream of text."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog
from aiohttp import web

from resolver.errors import IndexUnavailable, InvalidRequest, ResolverError, UnsupportedMediaType
from resolver.gateway.api.admin import admin_only, audit, audit_read
from resolver.gateway.app_keys import ADMIN, HOST, SERVICES
from resolver.gateway.problem import json_response
from resolver.gateway.reply import NO_STORE
from resolver.gateway.request_body import body_timeout_error
from resolver.index import ImageRows, walk
from resolver.registry.export_format import Reader, Writer
from resolver.registry.index_import import IndexImport
from resolver.turns import in_turns, parts_of

TEXT = "text/plain; charset=us-ascii"

ROWS_PER_STEP = 32
"""Images that are rendered before other tasks may get a turn: some 2 ms, where each is at many
locations."""

BYTES_PER_WRITE = 64 * 1024

GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
"""The ``wbits`` with which zlib expects a gzip header."""

MAX_DECOMPRESSED_BYTES = 65_536
"""Bytes of a compressed body that are decompressed at a time."""

T = TypeVar("T")

log = structlog.get_logger("transfer")


@admin_only
async def export_index(request: web.Request) -> web.StreamResponse:
    """GET /index/export."""
    services = request.app[SERVICES]
    await audit_read(request, "export")
    table = await services.tables.current()
    writer = Writer(view.location for view in table.by_name.values())
    batches = walk(services.index.claims)
    rows = await next_rows(batches)  # an error before the first byte has a status of its own
    response = web.StreamResponse(headers={**NO_STORE, "Content-Type": TEXT})
    await response.prepare(request)
    try:
        await response.write(writer.head())
        while rows:
            async with _in_background(next_rows(batches)) as upcoming:
                text = b""
                async for part in in_turns(parts_of(rows, ROWS_PER_STEP)):
                    text += writer.add(part)
                    if len(text) >= BYTES_PER_WRITE:
                        await response.write(text)
                        text = b""
                await response.write(text)
                rows = await upcoming
    except ResolverError as error:
        log.warning("export stopped", reason=str(error))
        await response.write(writer.error(error.detail))
        reset_connection(request)
    except ConnectionError:  # the client disconnected
        reset_connection(request)
    else:
        await response.write(writer.end())
    return response


def reset_connection(request: web.Request) -> None:
    """Closes the connection after what was written is sent, without the end of the chunked body:
    the client sees that the stream is not complete."""
    if request.transport is not None:
        request.transport.close()


async def next_rows(batches: AsyncIterator[ImageRows]) -> ImageRows:
    """The next images; an empty list at the end."""
    async for rows in batches:
        if rows:
            return rows
    return []


@asynccontextmanager
async def _in_background(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Runs ``work`` as a task during the block. The task is cancelled when the block ends."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@admin_only
async def import_index(request: web.Request) -> web.StreamResponse:
    """POST /index/import.

    With ``?with_auth=1``, locations get the credentials of the file. With ``?update_locations=1``,
    those that exist get the fields that the file has.
    """
    services = request.app[SERVICES]
    query = request.query
    options = ("with_auth", "update_locations")
    if set(query) - set(options) or set(query.values()) - {"0", "1"}:
        raise InvalidRequest("an import takes ?with_auth=1 and ?update_locations=1, or nothing")
    reader = Reader()
    index_import = IndexImport(
        services.registry,
        services.tables,
        services.index.claims,
        update_locations=query.get("update_locations") == "1",
        request_host=request[HOST],
        by=request[ADMIN],
        with_auth=query.get("with_auth") == "1",
    )
    await audit(request, "import-begin", detail="with credentials" * index_import.with_auth)
    ended = "import-failed"
    try:
        async for data in _body(request):
            async for part in reader.feed_in_turns(data):
                await index_import.add(part)
        reader.close()
        await index_import.finish()
        ended = "import"
    except ResolverError as error:
        await index_import.stop()  # so that the summary is complete
        error.detail += f"; before that, {index_import.summary_text()}"
        error.extra["applied"] = index_import.summary()
        raise
    finally:
        await index_import.stop()
        try:
            await audit(request, ended, detail=index_import.summary_text())
        except IndexUnavailable as error:  # that it began is there
            log.warning("import not recorded", result=ended, reason=str(error))
    return json_response(index_import.summary())


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    """The parts of the body as they arrive, decompressed. A body that breaks off just ends: the
    reader of the export finds out that it is not complete, and where.

    Raises:
        UnsupportedMediaType: the body is compressed with something other than gzip.
        RequestTimeout: no part arrived within RESOLVER_CLIENT_TIMEOUT.
    """
    coding = request.headers.get("Content-Encoding", "identity").lower()
    if coding not in ("identity", "gzip"):
        raise UnsupportedMediaType(
            f"send the file as it is or with `Content-Encoding: gzip`, not {coding[:40]!r}",
            headers={"Accept-Encoding": "gzip"},
        )
    seconds = request.app[SERVICES].settings.client_timeout
    parts = aiter(request.content.iter_any())
    decompressor = zlib.decompressobj(GZIP_WINDOW_BITS)
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
                yield decompressor.decompress(data, MAX_DECOMPRESSED_BYTES)
                await asyncio.sleep(0)  # it may be a thousand times as long as what was sent
                data = decompressor.unconsumed_tail
                if decompressor.eof:  # RFC 1952, 2.2: another member may follow
                    data, decompressor = (
                        decompressor.unused_data,
                        zlib.decompressobj(GZIP_WINDOW_BITS),
                    )
    except TimeoutError as error:
        raise body_timeout_error(seconds) from error
    except (ConnectionError, web.RequestPayloadError, zlib.error) as error:
        log.warning("import body incomplete", reason=str(error))
