"""Every command in docs/disaster.md and docs/upgrading.md, and those of docs/operators.md for the
first hour and for ordinary days, run as they stand there.

Each test is a section: a real Redis, one process that is gateway and indexer, and stand-in Glance
servers. First that happens which the section is about, then its ``sh`` blocks run in order.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from resolver.models import format_id
from resolver.standin import StandIn
from resolver.standin.call import Caller
from tests.cli.test_serve import Server, serve
from tests.conftest import started
from tests.operations.conftest import ROOT
from tests.support.ids import make_ids
from tests.support.process import free_port
from tests.support.redis import NOTHING_ON_DISK, RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^## (.*)$", re.MULTILINE)

IN_BOTH, IN_FRANKFURT, IN_OSLO, BY_HAND, IN_NONE, *MORE = map(format_id, make_ids(15))
ADMIN_PASSWORD, OLD_PASSWORD = "the-password-of-the-administrator", "the-old-password"
RIGHTS = re.compile(r"^ACL SETUSER resolver on >PASSWORD (.*?)^```$", re.MULTILINE | re.DOTALL)
"""Those that docs/storage.md lists."""
BLOCK_TIMEOUT_SECONDS = 120

FAIL_WITH_ANY_COMMAND = r"""set -Euo pipefail
trap 'code=$?; case "$BASH_COMMAND:$code" in
  glance-resolver\ status*:3 | glance-resolver\ doctor*:3) ;;
  *) echo "$BASH_COMMAND: exit status $code" >&2; exit 99 ;;
esac' ERR
"""
"""A command that fails ends the block. `status` and `doctor` exit 3 where something is wrong."""


def blocks(document: str, section: str) -> list[str]:
    """The commands of a section."""
    parts = SECTION.split((ROOT / "docs" / document).read_text("utf-8"))
    return BLOCK.findall(dict(zip(parts[1::2], parts[2::2], strict=True))[section])


class Installation:
    """A Redis, two regions, and one process; and an operator's shell with their files."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        self.folder = folder
        self.redis = redis
        self.admins = {"old-credential": Caller("admin", admin=True)}
        self.frankfurt = StandIn(tokens=self.admins)
        self.oslo = StandIn()
        self.server: Server
        self.environ: dict[str, str] = {}

    async def start(self, stack: AsyncExitStack) -> None:
        for server, images in (
            (self.frankfurt, (IN_BOTH, IN_FRANKFURT)),
            (self.oslo, (IN_BOTH, IN_OSLO)),
        ):
            await stack.enter_async_context(server)
            for image in images:
                server.add(id=image)
        self.oslo.add(id=BY_HAND, visibility="community")  # not in its listing
        path = self.install()
        redis_url = f"redis://resolver:{OLD_PASSWORD}@{self.redis.address}/0"
        self.write("redis-url", redis_url)
        self.write("admin-tokens", "dashboard:ro=the-token-of-a-dashboard\nops=the-old-admin-token")
        self.write("token", "the-old-admin-token")
        self.write("frankfurt-token", "old-credential")
        auth = {"token_file": str(self.folder / "frankfurt-token")}
        frankfurt = {"url": self.frankfurt.url, "region": "Frankfurt", "auth": auth}
        oslo = {"url": self.oslo.url, "region": "Oslo"}
        self.write(
            "locations.yaml", yaml.safe_dump({"locations": {"frankfurt": frankfurt, "oslo": oslo}})
        )
        common = {"RESOLVER_SECRET_FILES": f"{self.folder}/*"}
        self.server = await stack.enter_async_context(
            serve(
                **common,
                RESOLVER_REDIS_URL_FILE=str(self.folder / "redis-url"),
                RESOLVER_ADMIN_TOKENS_FILE=str(self.folder / "admin-tokens"),
                RESOLVER_HEALTH_INTERVAL="1",
            )
        )
        self.environ = {
            **common,
            "RESOLVER_URL": self.server.url,
            "RESOLVER_TOKEN_FILE": str(self.folder / "token"),
            "RESOLVER_REDIS_URL": redis_url,
            "REDIS_ADMIN_URL": f"redis://default:{ADMIN_PASSWORD}@{self.redis.address}/0",
            "HOME": str(self.folder),
            "PATH": path,
        }
        await self.run("glance-resolver locations apply locations.yaml --yes")
        for image in (IN_BOTH, IN_FRANKFURT, IN_OSLO):
            await wait_until(lambda image=image: self.is_found(image))
        await self.run(f"glance-resolver index claim oslo {BY_HAND}")
        await self.run(*blocks("disaster.md", "Before"))

    def install(self) -> str:
        """Makes the command; returns the ``PATH`` with it."""
        command = self.folder / "bin" / "glance-resolver"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m resolver "$@"\n')
        command.chmod(0o755)
        return os.pathsep.join([str(command.parent), os.environ.get("PATH", "")])

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(f"{text}\n")

    async def run(self, *commands: str) -> str:
        """Runs blocks of commands; returns what they print. The test fails with any of them."""
        output = ""
        for block in commands:
            process = await asyncio.create_subprocess_exec(
                "bash",
                "-c",
                f"{FAIL_WITH_ANY_COMMAND}{block}\nexit 0",
                cwd=self.folder,
                env=self.environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            async with asyncio.timeout(BLOCK_TIMEOUT_SECONDS):
                printed, _ = await process.communicate()
            assert process.returncode == 0, f"{block}\n{printed.decode()}"
            output += printed.decode()
        return output

    async def get(self, path: str) -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession(self.server.url) as http,
            http.get(path, allow_redirects=False) as response,
        ):
            return response.status, await response.json(content_type=None)

    async def status_of(self, admin_token: str) -> int:
        headers = {"Authorization": f"Bearer {admin_token}"}
        async with (
            aiohttp.ClientSession(self.server.url, headers=headers) as http,
            http.get("/locations") as response,
        ):
            return response.status

    async def is_found(self, image: str) -> bool:
        return await self.owners(image) != []

    async def owners(self, image: str) -> list[str]:
        _, answer = await self.get(f"/resolve/{image}")
        return sorted(owner["location"] for owner in answer["owners"])

    async def is_absent(self, image: str) -> bool:
        return (await self.get(f"/resolve/{image}"))[0] == 404

    async def names(self) -> list[str]:
        return (await self.run("glance-resolver locations list -o name")).split()

    async def works(self) -> None:
        """All that was known before is known, and what nobody has is absent again."""
        await wait_until(lambda: self.is_found(IN_FRANKFURT))
        assert await self.owners(IN_BOTH) == ["frankfurt", "oslo"]
        assert await self.owners(IN_OSLO) == ["oslo"]
        await wait_until(lambda: self.is_absent(IN_NONE))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """With the login that docs/storage.md recommends, and its ACL in a file."""
    rights = RIGHTS.findall((ROOT / "docs" / "storage.md").read_text("utf-8"))[0]
    acl = tmp_path / "users.acl"
    acl.write_text(
        f"user default on >{ADMIN_PASSWORD} ~* &* +@all\n"
        f"user resolver on >{OLD_PASSWORD} {' '.join(rights.replace(chr(92), ' ').split())}\n"
    )
    options = (*NOTHING_ON_DISK, "--aclfile", str(acl))
    server = started(RedisServer(options=options, password=ADMIN_PASSWORD))
    yield server
    server.close()


@pytest.fixture
async def installation(tmp_path: Path, redis: RedisServer) -> AsyncIterator[Installation]:
    async with AsyncExitStack() as stack:
        made = Installation(tmp_path, redis)
        await made.start(stack)
        yield made


async def test_redis_has_lost_its_data(installation: Installation) -> None:
    installation.redis.flush()
    await installation.run(*blocks("disaster.md", "Redis has lost its data"))
    await installation.works()
    assert await installation.owners(BY_HAND) == ["oslo"]


async def test_redis_has_older_data(installation: Installation) -> None:
    """Since then a location was removed, another was put into maintenance by hand, and most images
    of a third were deleted. What was set by hand is in the log only."""
    for image in MORE:
        installation.frankfurt.add(id=image)
    async with StandIn() as closed:
        await installation.run(f"glance-resolver locations add closed {closed.url}")
    await installation.run("glance-resolver locations sweep frankfurt --wait")
    with installation.redis.client() as client:
        old = {key: client.dump(key) for key in client.scan_iter("*")}
        by_hand = "--state maintenance --reason 'new racks until 18:00 UTC'"
        await installation.run(f"glance-resolver locations set oslo {by_hand}")
        await installation.run("glance-resolver locations remove closed --yes")
        for image in MORE:
            installation.frankfurt.delete(image)
        with client.pipeline(transaction=True) as pipe:
            pipe.flushall()
            for key, value in old.items():
                pipe.restore(key, 0, value)
            pipe.execute()
    assert "closed" in await installation.names(), "it is back"
    assert "racks" not in await installation.run("glance-resolver locations log")
    installation.write("gateway.log", installation.server.output)
    output = await installation.run(*blocks("disaster.md", "Redis has older data"))
    assert "- closed" in output
    (changed,) = (json.loads(line) for line in output.splitlines() if '"location changed"' in line)
    assert (changed["admin"], changed["location"]) == ("ops", "oslo")
    assert changed["before"] == {"state": "active", "reason": ""}
    assert changed["after"] == {"state": "maintenance", "reason": "new racks until 18:00 UTC"}
    assert await installation.names() == ["frankfurt", "oslo"]
    assert await installation.is_absent(MORE[0])
    assert await installation.owners(IN_FRANKFURT) == ["frankfurt"]
    _, answer = await installation.get(f"/resolve/{IN_OSLO}")
    assert "new racks until 18:00 UTC" in answer["detail"]


async def test_redis_has_the_data_of_something_else(installation: Installation) -> None:
    for name in ("frankfurt", "oslo"):
        await installation.run(f"glance-resolver locations remove {name} --yes")
    await installation.run("glance-resolver locations add alien http://127.0.0.1:9")
    await installation.run(f"glance-resolver index claim alien {IN_FRANKFURT}")
    assert await installation.owners(IN_FRANKFURT) == ["alien"]
    output = await installation.run(*blocks("disaster.md", "Redis has the data of something else"))
    assert "location frankfurt\tyes" in output
    await installation.works()
    assert await installation.names() == ["frankfurt", "oslo"]


async def test_a_region_is_lost(installation: Installation) -> None:
    await installation.oslo.stop()
    away, report, again, removed = blocks("disaster.md", "A region is lost")
    await installation.run(away)
    assert await installation.is_absent(IN_NONE)
    status, answer = await installation.get(f"/resolve/{IN_OSLO}")
    assert (status, "region lost" in answer["detail"]) == (503, True)
    await installation.run(report)
    lacking = (installation.folder / "lacking-in-frankfurt").read_text()
    assert re.search(rf"^# {IN_OSLO}: ", lacking, re.MULTILINE)
    async with StandIn() as new:
        new.add(id=IN_OSLO)
        installation.environ["NEW_URL"] = new.url
        await installation.run(again)
        _, answer = await installation.get(f"/resolve/{IN_OSLO}")
        assert answer["url"].startswith(new.url)
    await installation.run(removed)
    assert await installation.names() == ["frankfurt"]
    assert await installation.is_absent(IN_OSLO)


async def test_a_secret_has_leaked(installation: Installation) -> None:
    admin_token, credential, password, wait = blocks("disaster.md", "A secret has leaked")
    await installation.run(admin_token)
    assert await installation.status_of("the-old-admin-token") == 401
    assert await installation.status_of("the-token-of-a-dashboard") == 200
    del installation.admins["old-credential"]
    installation.admins["new-credential"] = Caller("admin", admin=True)
    installation.environ["NEW_LOCATION_TOKEN"] = "new-credential"
    await installation.run(credential)
    await installation.run(password)
    for url, answer in (('"$RESOLVER_REDIS_URL"', "WRONGPASS"), ('"$(cat redis-url)"', "PONG")):
        assert answer in await installation.run(f"redis-cli -u {url} PING || true")
    installation.environ["RESOLVER_REDIS_URL"] = await installation.run("cat redis-url")
    saved = (installation.folder / "users.acl").read_text()
    assert sha256(OLD_PASSWORD.encode()).hexdigest() not in saved
    assert sha256(ADMIN_PASSWORD.encode()).hexdigest() in saved
    await installation.run(wait)
    await installation.run("glance-resolver locations sweep frankfurt --wait")
    await installation.works()


async def test_the_commands_of_an_upgrade(installation: Installation) -> None:
    await installation.run(*blocks("upgrading.md", "Rolling upgrade"))
    formats = await installation.run(*blocks("upgrading.md", "What the index says about itself"))
    assert {"format", "writers", "newest"} <= set(formats.split())
    await installation.run(*blocks("upgrading.md", "Roll back"))
    await installation.works()


async def test_the_first_hour_and_ordinary_days(tmp_path: Path, redis: RedisServer) -> None:
    installation, port = Installation(tmp_path, redis), free_port()
    async with installation.frankfurt as frankfurt, installation.oslo as oslo, StandIn() as lab:
        frankfurt.add(id=IN_FRANKFURT)
        installation.environ = {
            "GLANCE_URL": frankfurt.url,
            "GLANCE_TOKEN": "old-credential",
            "ID": IN_FRANKFURT,
            "RESOLVER_PORT": str(port),
            "RESOLVER_URL": f"http://127.0.0.1:{port}",
            "HOME": str(tmp_path),
            "PATH": installation.install(),
        }
        start, first_answer = blocks("operators.md", "The first hour")
        assert "redis://127.0.0.1:6379/0" in start
        start = start.replace("redis://127.0.0.1:6379/0", redis.url)
        ordinary_days = [
            f"glance-resolver locations add oslo {oslo.url} --region RegionTwo",
            f"glance-resolver locations add old-lab {lab.url}",
            *blocks("operators.md", "How owners are ordered"),
            *blocks("operators.md", "Coverage"),
            *blocks("operators.md", "What a region lacks"),
            *blocks("operators.md", "Drain a location"),
        ]
        output = await installation.run(
            "\n".join((start, "trap 'kill %1' EXIT", first_answer, *ordinary_days))
        )
    assert f"{IN_FRANKFURT}  found  frankfurt" in output
    assert "location frankfurt\tyes" in output


@pytest.mark.parametrize("document", ["disaster.md", "upgrading.md"])
def test_each_section_with_commands_has_a_test(document: str) -> None:
    source = Path(__file__).read_text("utf-8")
    text = (ROOT / "docs" / document).read_text("utf-8")
    for section in SECTION.findall(text):
        if blocks(document, section):
            assert f'blocks("{document}", "{section}")' in source, section
