"""Redis over TLS: each form of its URL, each way in which certificates can be wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from resolver.errors import IndexUnavailable, SettingsError
from resolver.index import ClaimCache, open_index
from resolver.models import Owner, parse_id
from tests.cli.test_serve import run
from tests.conftest import started
from tests.gateway.conftest import ADMIN, Start
from tests.security.test_tls import encrypted
from tests.support.certificates import Authority, Files
from tests.support.cluster import RedisCluster
from tests.support.redis import RedisServer, Tls
from tests.support.sentinel import Sentinels
from tests.support.wait import wait_until

IDS = [parse_id(f"{n:032x}") for n in range(0, 2**128, 2**124)]
TEXT = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
PASSWORD = "s3c@ret/:"


@contextmanager
def server(folder: Path, authority: Authority, *names: str, clients: bool = False) -> Iterator[Any]:
    """A Redis with a TLS port, and one without TLS for the test itself."""
    tls = Tls(authority.issue(*names), authority.file, clients)
    one = started(RedisServer(folder, password=PASSWORD, tls=tls))
    try:
        yield one
    finally:
        one.kill()


def trusting(url: str, authority: Authority, client: Files | None = None) -> str:
    more = f"&ssl_certfile={quote(str(client.cert))}&ssl_keyfile={client.key}" if client else ""
    return f"{url}?ssl_ca_certs={quote(str(authority.file))}{more}"


async def works(url: str) -> None:
    """Writes, lookups and invalidations: both connections and the cache."""
    cache = ClaimCache(1000, 60)
    async with open_index(url, bits=8, cache=cache) as one, open_index(url) as other:
        assert await one.claims.claim(1, IDS) == len(IDS)
        for _ in range(2):
            assert (await one.claims.lookup(IDS)).owners == [(Owner(1),)] * len(IDS)
        await wait_until(one.client.tracking_current, message="the connection is tracked")
        for image_id in IDS:
            await one.claims.lookup([image_id], cache=True)
        assert one.claims.cached(IDS[3]) is not None
        await other.claims.claim(2, IDS[3:4])
        await wait_until(
            lambda: one.claims.cached(IDS[3]) is None, message="the cache is invalidated"
        )
        assert (await one.claims.lookup(IDS[3:4])).owners == [(Owner(1), Owner(2))]
        # More than one TLS record each way.
        many = [parse_id(f"{n * 7919:032x}") for n in range(1, 20_001)]
        await one.claims.claim(1, many)
        assert (await one.claims.lookup(many)).owners == [(Owner(1),)] * len(many)


@pytest.mark.redis
async def test_one_redis_over_tls_with_a_client_certificate(
    tmp_path: Path, authority: Authority
) -> None:
    with server(tmp_path, authority, clients=True) as redis:
        await works(trusting(redis.url, authority, authority.issue("client")))


@pytest.mark.redis
async def test_sentinels_and_servers_over_tls(authority: Authority) -> None:
    sentinels = started(Sentinels(password=PASSWORD, tls=Tls(authority.issue(), authority.file)))
    try:
        assert sentinels.url.startswith("rediss+sentinel://")
        await works(trusting(sentinels.url, authority))
        with pytest.raises(IndexUnavailable):  # their certificate is verified, too
            async with open_index(sentinels.url):
                pass
    finally:
        sentinels.close()


@pytest.mark.redis
async def test_redis_cluster_over_tls(authority: Authority) -> None:
    cluster = started(RedisCluster(password=PASSWORD, tls=Tls(authority.issue(), authority.file)))
    try:
        assert cluster.url.startswith("rediss+cluster://")
        await works(trusting(cluster.url, authority))
    finally:
        cluster.close()


@pytest.mark.redis
async def test_a_gateway_answers_over_redis_tls_and_recovers_after_an_outage(
    tmp_path: Path, authority: Authority, start: Start
) -> None:
    with server(tmp_path, authority) as redis:
        gateway = await start(redis_url=trusting(redis.url, authority), stale_for=0)
        await gateway.location("one")
        await gateway.claim("one", TEXT)
        for _ in range(3):
            assert (await gateway.get(f"/v2/images/{TEXT}"))[0].status == 307
        redis.kill()

        async def gone() -> bool:
            return (await gateway.get(f"/v2/images/{TEXT}"))[0].status == 503

        await wait_until(gone)
        redis.start()

        async def back() -> bool:  # empty, since it keeps nothing on disk
            return "Redis has lost its data" in str(await gateway.get("/readyz"))

        await wait_until(back)
        url = {"url": "https://one.example:9292"}
        put, _ = await gateway.call("PUT", "/locations/one", headers=ADMIN, json=url)
        assert put.status == 201
        await gateway.claim("one", TEXT)
        assert (await gateway.get(f"/v2/images/{TEXT}"))[0].status == 307


async def open_refused(url: str) -> IndexUnavailable:
    with pytest.raises(IndexUnavailable) as caught:
        async with asyncio.timeout(8), open_index(url):
            pytest.fail("it opened")
    assert "127.0.0.1" not in caught.value.detail
    assert PASSWORD not in str(caught.value)
    return caught.value


@pytest.mark.redis
async def test_a_certificate_that_cannot_be_trusted(tmp_path: Path, authority: Authority) -> None:
    with server(tmp_path, authority) as redis:
        error = await open_refused(redis.url)  # by the system's authorities only
        assert error.detail == "Redis did not answer: its certificate cannot be trusted"
        assert "self-signed" in error.log_detail or "local issuer" in error.log_detail
        folder = tmp_path / "other"
        folder.mkdir()
        await open_refused(trusting(redis.url, Authority(folder)))


@pytest.mark.redis
async def test_a_certificate_for_another_name(tmp_path: Path, authority: Authority) -> None:
    with server(tmp_path, authority, "redis.example") as redis:
        error = await open_refused(trusting(redis.url, authority))
        assert error.detail == "Redis did not answer: its certificate cannot be trusted"
        assert "certificate is not valid for" in error.log_detail


@pytest.mark.redis
async def test_no_client_certificate_where_one_is_wanted(
    tmp_path: Path, authority: Authority
) -> None:
    with server(tmp_path, authority, clients=True) as redis:
        await open_refused(trusting(redis.url, authority))


@pytest.mark.redis
async def test_tls_to_a_server_without_it_and_none_to_one_with_it(
    tmp_path: Path, authority: Authority
) -> None:
    with server(tmp_path, authority) as redis:
        plain = f"127.0.0.1:{redis.port}"
        await open_refused(trusting(redis.url, authority).replace(redis.address, plain))
        await open_refused(redis.url.replace("rediss://", "redis://"))


@pytest.mark.parametrize("form", ["rediss://h", "rediss+sentinel://h/s", "rediss+cluster://h"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("ssl_ca_certs=/nowhere.pem", "ssl_ca_certs: cannot read /nowhere.pem: No such file"),
        ("ssl_ca_certs={key}", "cannot be used"),
        ("ssl_certfile={cert}&ssl_keyfile={other}", "cannot be used: KEY_VALUES_MISMATCH"),
        ("ssl_ca_cert=/ca.pem", "an option that redis-py does not know"),
    ],
)
async def test_unusable_files_and_options_are_errors_at_start(
    authority: Authority, form: str, options: str, says: str
) -> None:
    files = authority.issue()
    options = options.format(cert=files.cert, key=files.key, other=authority.issue().key)
    with pytest.raises(SettingsError, match=says):
        async with open_index(f"{form}?{options}", create=False):
            pytest.fail("it opened")


async def test_a_key_with_a_passphrase_is_an_error_at_start(authority: Authority) -> None:
    files = encrypted(authority.issue(), authority)
    url = f"rediss://h?ssl_certfile={files.cert}&ssl_keyfile={files.key}"
    with pytest.raises(SettingsError, match=r"ssl_keyfile: .* needs a passphrase"):
        async with open_index(url, create=False):
            pytest.fail("it opened")


async def test_options_for_tls_without_tls_are_an_error() -> None:
    with pytest.raises(SettingsError, match="an option that redis-py does not know for it"):
        async with open_index("redis://h?ssl_ca_certs=/ca.pem", create=False):
            pytest.fail("it opened")


async def test_the_password_of_a_key_is_not_shown() -> None:
    url = "rediss+cluster://me:s3cret@h?ssl_password=s3cret&password=s3cret"
    status, out, _ = await run("config", RESOLVER_REDIS_URL=url)
    assert status == 0
    assert "rediss+cluster://me:***@h?ssl_password=***&password=***" in out
