"""The URL of Redis in a file: a password is changed while the index is in use."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

import pytest

from resolver.errors import SettingsError
from resolver.index import ClaimCache, Index, open_index
from resolver.models import Owner
from tests.conftest import started
from tests.distributed.test_failover import IDS
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "cannot read .*: No such file"),
        ("", "must hold the URL of a Redis"),
        ("memory:\n", "must hold the URL of a Redis"),
        ("redis://one\nredis://two\n", "must hold the URL of a Redis"),
        ("redis://:s3cret@[one", "cannot be read as a URL"),
    ],
)
async def test_a_file_without_a_redis_url_is_an_error(
    tmp_path: Path, text: str | None, problem: str
) -> None:
    file = tmp_path / "url"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SettingsError, match=problem) as caught:
        async with open_index("memory:", url_file=str(file)):
            pass
    assert "s3cret" not in caught.value.detail


def url(server: RedisServer, password: str) -> str:
    return f"redis://glr:{password}@{server.address}/0"


async def answers(index: Index) -> bool:
    return (await index.claims.lookup(IDS)).owners == [(Owner(1),)] * len(IDS)


async def test_a_password_is_rotated(
    own_redis: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "url"
    file.write_text(url(own_redis, "old") + "\n")
    own_redis.ask("ACL SETUSER", "glr", "on", ">old", "~*", "+@all")
    async with open_index("memory:", url_file=str(file), bits=8) as index:
        await index.claims.claim(1, IDS)
        # The file changes first: the new password is refused, and the old one stays in use.
        file.write_text(url(own_redis, "new"))

        async def refused() -> bool:
            assert await answers(index)
            return "the previous URL stays" in caplog.text

        await wait_until(refused, message="the new password is refused")
        own_redis.ask("ACL SETUSER", "glr", "resetpass", ">new")

        async def switched() -> bool:
            assert await answers(index)
            return "the new URL is used" in caplog.text

        await wait_until(switched, message="the new password is used")
        own_redis.ask("CLIENT KILL", "USER", "glr")
        await wait_until(lambda: answers(index), message="a new connection has the new password")
    assert "new@" not in caplog.text


async def test_an_index_moves_to_another_server_with_the_url(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    """Claims cached from the first server are not used with the second."""
    file = tmp_path / "url"
    file.write_text(own_redis.url)
    with closing(started(RedisServer())) as other:
        async with open_index(other.url, bits=8) as index:
            await index.claims.claim(2, IDS)
        cache = ClaimCache(1000, 60)
        async with open_index("memory:", url_file=str(file), bits=8, cache=cache) as index:
            await index.claims.claim(1, IDS)

            async def cached() -> bool:
                await index.claims.lookup(IDS[:1], cache=True)
                return index.claims.cached(IDS[0]) is not None

            await wait_until(cached)
            file.write_text(other.url)

            async def moved() -> bool:
                (owners,) = (await index.claims.lookup(IDS[:1])).owners
                return owners == (Owner(2),)

            await wait_until(moved, message="the other server is read")
            assert index.claims.cached(IDS[0]) is None
