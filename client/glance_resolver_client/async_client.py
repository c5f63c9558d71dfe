"""The client for asyncio and trio. Its methods are those of the client for threads."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Self, TypeVar
from uuid import UUID

import anyio
import anyio.to_thread
import httpx

from glance_resolver_client.answers import Answer
from glance_resolver_client.downloads import Download, ImageDownload, LocationToken
from glance_resolver_client.exchange import ExchangeError, Pause, Reply, Request, Steps, Work
from glance_resolver_client.gateway_calls import (
    IDS_PER_REQUEST,
    MAX_PAGES,
    Choice,
    GatewayCalls,
    chunks,
    endless_lookup_error,
    lookup_target,
)
from glance_resolver_client.http_messages import (
    ANSWER_TIMEOUTS,
    DIRECT,
    TIMEOUT_SECONDS,
    Incoming,
    exchange_errors,
    outgoing,
    too_slow_error,
)
from glance_resolver_client.retries import DEFAULT_RETRIES, Retries

T = TypeVar("T")


class AsyncClient:
    """A gateway, and the locations that it names. Tasks can share one.

    All methods raise GatewayError, or GatewayUnavailableError where it does not answer.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = TIMEOUT_SECONDS,
        retries: Retries = DEFAULT_RETRIES,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``url`` is the gateway's. ``timeout``: seconds that a connection may take or be silent.
        The head of a response, and all of one that has no image's bytes, may take four times that.
        ``tls`` is used for the gateway and for locations. Proxies are those of the environment,
        but none for loopback.

        Raises:
            ValueError: the URL is not an http or https URL.
        """
        self._calls = GatewayCalls(url, retries)
        self._timeout = timeout
        self._http = httpx.AsyncClient(verify=tls or True, mounts=DIRECT)

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def resolve(
        self,
        image_id: str | UUID,
        *,
        token: str | None = None,
        region: str | None = None,
        exclude: Sequence[str] = (),
        fresh: bool = False,
    ) -> Answer:
        """Found, Absent or Unknown. Where it is Unknown, the gateway is asked again, within the
        bounds of `retries`.

        Owners in ``region`` come first; locations named in ``exclude`` are left out; ``fresh``
        asks the owners themselves. ``token`` is the caller's Keystone token, for a gateway that
        asks for one (RESOLVER_READ_AUTH).

        Raises:
            ValueError: the token has characters that no token has.
        """
        return await self._run(self._calls.resolve(image_id, Choice(region, exclude, fresh), token))

    async def resolve_many(
        self,
        ids: Iterable[str | UUID],
        *,
        token: str | None = None,
        region: str | None = None,
        exclude: Sequence[str] = (),
        fresh: bool = False,
        chunk_size: int = IDS_PER_REQUEST,
    ) -> AsyncIterator[Answer]:
        """An answer for each id, in their order; Invalid for what is not an id. ``chunk_size`` ids
        are in one request; RESOLVER_BULK_LIMIT of the gateway bounds it. ``token`` as for
        `resolve`."""
        choice = Choice(region, exclude, fresh)
        for chunk in chunks(ids, chunk_size):
            for answer in await self._run(self._calls.resolve_chunk(chunk, choice, token)):
                yield answer

    async def lookup(
        self,
        *,
        name: str | None = None,
        os_hash_value: str | None = None,
        checksum: str | None = None,
        tags: Iterable[str] = (),
        visibility: str | None = None,
        token: str | None = None,
        region: str | None = None,
        exclude: Sequence[str] = (),
        fresh: bool = False,
    ) -> AsyncIterator[Answer]:
        """An answer for each image that matches all of these.

        ``token`` is the caller's Keystone token. It goes to the gateway, which asks every location
        with it.

        Raises:
            ValueError: none of name, hash, checksum and tags was given, or the token has characters
                that no token has.
        """
        target = lookup_target(
            name=name,
            os_hash_value=os_hash_value,
            checksum=checksum,
            tags=tags,
            visibility=visibility,
            choice=Choice(region, exclude, fresh),
        )
        for _ in range(MAX_PAGES):
            page = await self._run(self._calls.lookup_page(target, token))
            for answer in page.answers:
                yield answer
            if page.next_target is None:
                return
            target = page.next_target
        raise endless_lookup_error()

    async def download(
        self,
        image_id: str | UUID,
        destination: str | os.PathLike[str],
        *,
        token: str | None = None,
        location_token: LocationToken | None = None,
        region: str | None = None,
        exclude: Sequence[str] = (),
        verify: bool = True,
    ) -> Download:
        """Writes an image's bytes to a file, which has its name once they are complete and have
        the checksum that the owner shows. A file of that name is replaced.

        What fails at one owner is tried at the next, where the first one stopped.
        ``token`` is sent to the gateway only, as for `resolve`. ``location_token`` is sent to the
        owners that are asked, and never to the gateway. With
        ``verify=False`` an image without a checksum is taken, too.

        Raises:
            ImageAbsentError, ImageUnknownError: the gateway names no owner.
            DownloadError: no owner delivered it.
            OSError: the file cannot be written.
            ValueError: the token has characters that no token has.
        """
        download = ImageDownload(
            self._calls,
            image_id,
            Path(destination),
            choice=Choice(region, exclude),
            token=token,
            location_token=location_token,
            verify=verify,
        )
        return await self._run(download.steps())

    async def _run(self, steps: Steps[T]) -> T:
        with closing(steps):
            try:
                step = next(steps)
                while True:
                    reply: Reply | None = None
                    match step:
                        case Pause(seconds):
                            await anyio.sleep(seconds)
                        case Work(function):
                            await anyio.to_thread.run_sync(function)
                        case Request():
                            try:
                                reply = await self._send(step)
                            except ExchangeError as error:
                                step = steps.throw(error)
                                continue
                    step = steps.send(reply)
            except StopIteration as stop:
                result: T = stop.value
                return result

    async def _send(self, request: Request) -> Reply:
        """Raises ExchangeError, or what writing the body raises."""
        seconds = ANSWER_TIMEOUTS * self._timeout
        until = time.monotonic() + seconds
        sent = outgoing(request, self._timeout)
        with exchange_errors():
            with anyio.move_on_after(seconds) as head:
                response = await self._http.send(
                    sent, auth=None, follow_redirects=False, stream=True
                )
            if head.cancelled_caught:
                raise too_slow_error()
            async with aclosing(response):
                incoming = Incoming(request, response, until)
                async for part in response.aiter_raw():
                    if request.receive is None:
                        incoming.write(part)
                    else:  # a disk may be slow
                        await anyio.to_thread.run_sync(incoming.write, part)
                return incoming.reply()
