"""``GET /`` for browsers: the status page, its files, and its changes as server-sent events."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from resolver.errors import Busy, NotFound
from resolver.gateway.api.page_answers import answer
from resolver.gateway.api.version_documents import versions
from resolver.gateway.app_keys import IN_FLIGHT, SERVICES
from resolver.gateway.limits import LIMITS
from resolver.gateway.negotiation import AUTH_TOKEN, prefers_html
from resolver.gateway.page.document import ASSETS, SECURITY_HEADERS, asset, page
from resolver.gateway.page.question import question_of
from resolver.gateway.page.snapshot import Snapshot, SnapshotCache
from resolver.gateway.reply import NO_STORE
from resolver.listing import domain_regions

MAX_STREAMS = 100
"""Browsers that get changes at the same time from one process."""

MAX_CLIENT_STREAMS = 20
"""The same of one client: nobody keeps the others out."""

UPDATE_SECONDS = 1.0
"""Between two checks for changes."""

QUIET_SECONDS = 15
"""After this long without a change something is sent, so that no proxy closes the stream, and a
browser that is gone is noticed."""

RETRY_MILLISECONDS = 5000
"""When a browser connects again after a stream has ended."""

SNAPSHOTS = web.AppKey("snapshots", SnapshotCache)


class Streams:
    """Counts the browsers that get changes."""

    def __init__(self) -> None:
        self._by_client: Counter[bytes] = Counter()

    @contextmanager
    def counted(self, client: bytes) -> Iterator[None]:
        """One more of a client. Raises Busy where there are too many, of all or of this one."""
        if self._by_client.total() >= MAX_STREAMS or self._by_client[client] >= MAX_CLIENT_STREAMS:
            raise Busy("too many browsers follow the status page", headers={"Retry-After": "60"})
        self._by_client[client] += 1
        try:
            yield
        finally:
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]


STREAMS = web.AppKey("streams", Streams)


async def root(request: web.Request) -> web.StreamResponse:
    """GET /: the page for a browser, and Glance's versions document for all others."""
    return await status_page(request) if prefers_html(request.headers) else await versions(request)


async def status_page(request: web.Request) -> web.StreamResponse:
    """The page; where the query asks for images, with the answer about them."""
    status, section = 200, None
    question = question_of(request.query)
    if question:
        status, section = await answer(request, question)
    snapshot = await request.app[SNAPSHOTS].get()
    services = request.app[SERVICES]
    regions = domain_regions(services.tables.table)
    return web.Response(
        text=page(snapshot, services.settings.role, question, regions, section),
        status=status,
        content_type="text/html",
        charset="utf-8",
        headers={**NO_STORE, "Vary": f"Accept, {AUTH_TOKEN}", **SECURITY_HEADERS},
    )


async def page_file(request: web.Request) -> web.StreamResponse:
    """GET /page/{file}: a file of the page. Its URL in the page changes with it."""
    name = request.match_info["file"]
    if name not in ASSETS:
        raise NotFound("the page has no such file")
    found = asset(name)
    headers = {"Cache-Control": "public, max-age=86400", "Content-Type": found.media_type}
    return web.Response(body=found.body, headers={**headers, **SECURITY_HEADERS})


async def page_events(request: web.Request) -> web.StreamResponse:
    """GET /page/events: what changes on the page, as server-sent events, until the client leaves or
    this process stops. The first has all that a page of before may lack."""
    snapshots, in_flight = request.app[SNAPSHOTS], request.app[IN_FLIGHT]
    headers = {
        **NO_STORE,
        "Content-Type": "text/event-stream; charset=utf-8",
        "X-Accel-Buffering": "no",  # nginx would hold events back
        **SECURITY_HEADERS,
    }
    with request.app[STREAMS].counted(request.app[LIMITS].client(request)):
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        try:
            await response.write(f"retry: {RETRY_MILLISECONDS}\n\n".encode())
            shown: Snapshot | None = None
            quiet = 0
            while not await in_flight.stops_within(UPDATE_SECONDS if shown else 0):
                if request.transport is None or request.transport.is_closing():
                    break
                now = await snapshots.get()
                changed = now.changes_since(shown) if shown else now.content()
                shown, quiet = now, 0 if changed else quiet + 1
                if changed or quiet >= QUIET_SECONDS / UPDATE_SECONDS:
                    quiet = 0
                    event = json.dumps({"now": now.at, "changed": changed})
                    await response.write(f"data: {event}\n\n".encode())
        except ConnectionError:  # the browser has left
            pass
    return response
