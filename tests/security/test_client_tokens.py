"""With ``RESOLVER_READ_AUTH=caller`` clients' tokens are written nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
import redis.asyncio

from resolver.standin import StandIn
from resolver.standin.call import Caller
from tests.cli.test_serve import serve
from tests.conftest import started
from tests.gateway.callers import ALICE, BOB, END, OPS
from tests.support.fake_keystone import FakeKeystone
from tests.support.redis import RedisServer

pytestmark = pytest.mark.redis

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
REFUSED = "a-refused-token"
ADMIN = "ops-t0ken-aaaa-bbbb"
SECRETS = (OPS, ALICE, BOB, REFUSED)

READS = (
    *(f"/v2/images/{ID}", f"/v2/images/{ID}/file", f"/resolve/{ID}", f"/resolve/{ID}/explain"),
    *("/v2/images", "/resolve?name=a", "/v2/info/stores", f"/resolve/{ID}?fresh=1"),
)
WATCHED = ("/metrics", "/status", "/index", "/locations", "/audit", "/members", "/")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = started(RedisServer(tmp_path))
    yield server
    server.kill()


async def everything_in(server: RedisServer) -> str:
    """All keys and values, as text."""
    found = []
    async with redis.asyncio.Redis(port=server.port) as client:
        async for key in client.scan_iter():
            kind = (await client.type(key)).decode()
            value = await {
                "string": lambda key=key: client.get(key),
                "hash": lambda key=key: client.hgetall(key),
                "set": lambda key=key: client.smembers(key),
                "zset": lambda key=key: client.zrange(key, 0, -1),
                "list": lambda key=key: client.lrange(key, 0, -1),
            }[kind]()
            found.append(f"{key!r} {value!r}")
    return "\n".join(found)


@pytest.mark.parametrize("form", ["json", "text"])
async def test_no_token_is_in_redis_logs_metrics_or_answers(server: RedisServer, form: str) -> None:
    callers = {OPS: Caller("admin", admin=True), ALICE: Caller("alice"), BOB: Caller("bob")}
    async with AsyncExitStack() as stack:
        keystone = await stack.enter_async_context(FakeKeystone())
        keystone.accepted = {ALICE: END, BOB: END}
        glance = await stack.enter_async_context(StandIn(tokens=callers))
        glance.add(id=ID, name="a", visibility="private", owner="alice")
        environ = {
            "RESOLVER_REDIS_URL": server.url,
            "RESOLVER_ADMIN_TOKENS": f"ops={ADMIN}",
            "RESOLVER_LOG_LEVEL": "debug",
            "RESOLVER_LOG_FORMAT": form,
            "RESOLVER_READ_AUTH": "caller",
            "RESOLVER_DOMAINS": keystone.url,
            "GLANCE_OPS": OPS,
        }
        gateway = await stack.enter_async_context(
            serve("--location", f"one={glance.url}", **environ)
        )
        http = await stack.enter_async_context(aiohttp.ClientSession(gateway.url))
        admin = {"Authorization": f"Bearer {ADMIN}"}
        body = {"auth": {"token_env": "GLANCE_OPS"}}
        async with http.patch("/locations/one", json=body, headers=admin) as response:
            assert response.status == 200
        shown = []

        async def ask(method: str, path: str, headers: dict[str, str]) -> int:
            sent = http.request(method, path, headers=headers, allow_redirects=False)
            async with sent as response:
                shown.append(f"{response.headers}\n{await response.text()}")
                return response.status

        async def ask_everything() -> None:
            await asyncio.gather(
                *(
                    ask(method, path, {"X-Auth-Token": token})
                    for token in (ALICE, BOB, REFUSED)
                    for path in READS
                    for method in ("GET", "DELETE")
                )
            )

        assert await ask("GET", READS[0], {"X-Auth-Token": ALICE}) == 307
        assert await ask("GET", READS[0], {"X-Auth-Token": BOB}) == 404
        assert await ask("GET", READS[0], {"X-Auth-Token": REFUSED}) == 401
        await ask_everything()
        keystone.fault = 500
        assert await ask("GET", READS[0], {"X-Auth-Token": "another"}) == 503
        await glance.stop()
        await ask_everything()
        for path in WATCHED:
            await ask("GET", path, admin)
        stored = await everything_in(server)
        assert "one" in stored
    assert [secret for secret in SECRETS if secret in stored] == []
    assert [secret for secret in SECRETS if secret in gateway.output] == []
    assert [text for text in shown if any(secret in text for secret in SECRETS)] == []
    assert "tokens not checked" in gateway.output
