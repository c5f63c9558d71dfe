"""A Redis whose URL is in a file that may change: a password is rotated without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from resolver.errors import ResolverError, SettingsError
from resolver.index.redis.client import (
    DEFAULT_TIMEOUTS,
    Command,
    RedisClient,
    RedisTimeouts,
    Server,
)
from resolver.index.redis.url import connect
from resolver.text_files import FileStamp, file_stamp, read_text

MAX_FILE_BYTES = 16_384

CHECK_SECONDS = 1.0
"""How often the file is checked while the client is used."""

log = structlog.get_logger()


def read_url(file: str) -> str:
    """The URL in a file.

    Raises:
        SettingsError: there is none, or it means the memory of this process.
    """
    try:
        url = read_text(Path(file), MAX_FILE_BYTES).strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not ASCII text"
        raise SettingsError(f"RESOLVER_REDIS_URL_FILE: cannot read {file}: {why}") from error
    if not url or "\n" in url or url.startswith("memory:"):
        raise SettingsError(
            f"RESOLVER_REDIS_URL_FILE: {file} must hold the URL of a Redis, such as "
            "redis://user:password@host:6379/0, and nothing else"
        )
    return url


class UrlFileClient(RedisClient):
    """The Redis that a file names.

    A changed file counts once a Redis answers at the new URL; until then the previous one is used.
    So it does not matter whether a password is changed first in Redis or first in the file.
    """

    def __init__(self, file: str, timeouts: RedisTimeouts = DEFAULT_TIMEOUTS) -> None:
        """Raises SettingsError where the file holds no usable URL."""
        super().__init__(timeouts)
        self._file = file
        self._url = read_url(file)
        self._client = self._connect(self._url)
        self._stamp: FileStamp = ()
        self._next_check = 0.0
        self._check: asyncio.Task[None] | None = None
        self._fault = ""
        """Why the file cannot be used now; logged when it changes."""

    def _connect(self, url: str) -> RedisClient:
        client = connect(url, self.timeouts)
        client.on_invalidation(self.invalidate)
        return client

    @property
    def accepts_packed(self) -> bool:  # type: ignore[override]
        return self._client.accepts_packed

    async def send(self, commands: Sequence[Command], *, foreground: bool) -> list[Any]:
        self._check_soon()
        return await self._client.send(commands, foreground=foreground)

    @property
    def resends(self) -> int:
        return super().resends + self._client.resends

    def tracking_current(self) -> bool:
        """Checks the file too: when everything is cached, nothing is sent."""
        self._check_soon()
        return self._client.tracking_current()

    @property
    def one_slot_commands(self) -> bool:  # type: ignore[override]
        return self._client.one_slot_commands

    @property
    def user(self) -> str:  # type: ignore[override]
        return self._client.user

    @property
    def own_commands(self) -> Mapping[str, Command]:  # type: ignore[override]
        return self._client.own_commands

    def tracking_error(self) -> str:
        return self._client.tracking_error()

    async def servers(self) -> list[Server]:
        return await self._client.servers()

    async def ask(
        self, server: Server, commands: Sequence[Command], *, foreground: bool = False
    ) -> list[Any]:
        return await self._client.ask(server, commands, foreground=foreground)

    async def sentinel_errors(self) -> dict[str, str]:
        return await self._client.sentinel_errors()

    def master_is_confirmed(self) -> bool:
        return self._client.master_is_confirmed()

    async def master_doubt(self) -> str:
        return await self._client.master_doubt()

    def oldest_reply_age(self) -> float:
        return self._client.oldest_reply_age()

    def _check_soon(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next_check and (self._check is None or self._check.done()):
            self._next_check = now + CHECK_SECONDS
            self._check = asyncio.create_task(self._follow_file(), name="redis url file")

    async def _follow_file(self) -> None:
        try:
            stamp = file_stamp(Path(self._file))
            if stamp == self._stamp:
                return
            url = read_url(self._file)
            if url != self._url:
                await self._switch_to(url)
            self._stamp = stamp
        except OSError as error:
            self._report_fault(f"RESOLVER_REDIS_URL_FILE: {error}")
        except ResolverError as error:
            self._report_fault(str(error))
        else:
            self._fault = ""

    async def _switch_to(self, url: str) -> None:
        """Raises SettingsError or IndexUnavailable where the URL cannot be used now."""
        client = self._connect(url)
        try:
            await client.command("PING")
        except BaseException:
            await client.close()
            raise
        previous, self._client, self._url = self._client, client, url
        self._resends += previous.resends
        self.invalidate(None)
        log.info("redis url file changed, the new URL is used")
        try:
            await asyncio.sleep(self.timeouts.reply)  # what was sent before gets its reply
        finally:
            await previous.close_in_time()

    def _report_fault(self, fault: str) -> None:
        if fault != self._fault:
            log.warning("redis url file cannot be used, the previous URL stays", reason=fault)
        self._fault = fault

    async def close(self) -> None:
        if self._check is not None:
            self._check.cancel()
            await asyncio.wait([self._check])
        await self._client.close()
