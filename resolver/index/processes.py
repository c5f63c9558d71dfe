"""Which processes of the resolver use this index: gateways, workers and indexers, of which version
and since when."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from resolver.index.keys import Keys
from resolver.index.record_codec import MAX_NUMBER, MIN_NUMBER
from resolver.index.redis.client import RedisClient
from resolver.index.redis.redis_errors import DECODE_ERRORS
from resolver.index.redis.replies import parses_reply
from resolver.index.redis.scripts import load

ANNOUNCE = load("announce_process", "announced")
LIST = load("list_processes", "announced", read_only=True)

ANNOUNCED_SECONDS = 60.0
"""How long an announcement counts."""

MAX_PROCESSES, MAX_PROCESS_BYTES = 2000, 2048
"""What is read of the announcements, at most. One that this program writes has some 200 bytes."""

MAX_VERSIONS, MAX_TEXT_LENGTH = 20, 255
"""Versions that are read, at most; and the longest text of an announcement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """One process, as it announces itself."""

    id: str
    """No other process has the same."""
    role: str
    """``gateway``, ``indexer`` or ``all``."""
    version: str
    host: str
    pid: int
    since: float
    """Unix time of its start."""


class Processes:
    """The processes that use one index."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def announce(self, process: ProcessInfo) -> list[str]:
        """Announces a process for `ANNOUNCED_SECONDS`. Returns the versions of all that are
        announced, at most `MAX_VERSIONS`: few bytes, however many processes there are.

        Raises:
            IndexUnavailable: Redis does not answer, or this process must not write.
        """
        return _texts(await self._announce(process, ANNOUNCED_SECONDS))

    async def leave(self, process: ProcessInfo) -> None:
        """Ends its announcement.

        Raises:
            IndexUnavailable: Redis does not answer, or this process must not write.
        """
        await self._announce(process, 0)

    async def list(self) -> list[ProcessInfo]:
        """All that are announced, at most `MAX_PROCESSES`, by host, role and start. One whose
        announcement this version cannot read is left out.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        bounds = [MAX_PROCESSES, MAX_PROCESS_BYTES]
        found = _parse(await self._client.run(LIST, [self._keys.processes], bounds))
        return sorted(found, key=lambda p: (p.host, p.role, p.since, p.id))

    async def _announce(self, process: ProcessInfo, seconds: float) -> Any:
        keys = [self._keys.processes, self._keys.versions]
        text = json.dumps(asdict(process), sort_keys=True)
        bounds = [MAX_VERSIONS, MAX_TEXT_LENGTH]
        return await self._client.run(
            ANNOUNCE, keys, [text, process.version, repr(seconds), *bounds]
        )


@parses_reply
def _texts(reply: Any) -> list[str]:
    texts = (text.decode(errors="replace") for text in reply)
    return sorted(filter(_is_shown, texts))


@parses_reply
def _parse(reply: Any) -> list[ProcessInfo]:
    return [process for text in reply if (process := _process(text)) is not None]


def _process(text: bytes) -> ProcessInfo | None:
    try:
        fields = json.loads(text)
        process = ProcessInfo(
            **{name: fields[name] for name in ("id", "role", "version", "host", "pid", "since")}
        )
    except (*DECODE_ERRORS, RecursionError):
        return None
    texts = (process.id, process.role, process.version, process.host)
    is_valid = (
        all(isinstance(text, str) and _is_shown(text) for text in texts)
        and type(process.pid) is int
        and type(process.since) in (int, float)
        and all(MIN_NUMBER <= number <= MAX_NUMBER for number in (process.pid, process.since))
    )
    return process if is_valid else None


def _is_shown(text: str) -> bool:
    """Whether an answer may have the text."""
    return len(text) <= MAX_TEXT_LENGTH and text.isprintable()
