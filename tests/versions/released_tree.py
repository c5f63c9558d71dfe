"""The tree of an earlier commit, and processes that run it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import urlopen

import aiohttp

from tests.gateway.conftest import ADMIN, TOKEN
from tests.support.process import ServerProcess, clean_environment
from tests.support.requirements import cannot_run

ROOT = Path(__file__).parent.parent.parent

FORMAT_1_COMMIT = "56f2d349f8ca818501e62254a69592645dd101db"
"""The last commit whose index has format 1."""

FORMAT_2_COMMIT = "4e0d45e5d73cf53297ae91fd2946e46598ccbbda"
"""The last commit whose index has format 2."""

RELEASE_COMMIT = "e92437252359592e0a3f62ba9fc1b030ef20db54"
"""The last release. A commit and not its tag, which a clone may lack."""


def unpack(commit: str, directory: Path) -> Path:
    """The tree of a commit, unpacked in ``directory``. Where the history does not have the commit
    the test is skipped; in CI it fails, since the history must be complete there."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "--format=tar", commit, "resolver"],
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        cannot_run(f"no commit {commit[:12]} in the git history: fetch all of it")
    subprocess.run(["tar", "-x", "-C", str(directory)], input=archive.stdout, check=True)
    return directory


class VersionedServer(ServerProcess):
    """``serve`` of a given tree."""

    name: ClassVar[str] = "resolver"

    def __init__(self, tree: Path, redis_url: str, directory: Path, options: Sequence[str] = ()):
        super().__init__(directory)
        self.tree = tree
        self._redis_url = redis_url
        self._options = options

    def command(self) -> list[str]:
        # -P: without it this directory, which has the newest version, would come before PYTHONPATH.
        serve = [sys.executable, "-P", "-m", "resolver", "serve", "--port", str(self.port)]
        return [*serve, *self._options]

    def environment(self) -> dict[str, str]:
        return clean_environment(
            PYTHONPATH=str(self.tree),
            RESOLVER_REDIS_URL=self._redis_url,
            RESOLVER_ADMIN_TOKENS=f"ops={TOKEN}",
            RESOLVER_HEALTH_INTERVAL="1",
            RESOLVER_POLL_INTERVAL="1",
            RESOLVER_PROBE="off",
        )

    def is_ready(self) -> bool:
        with urlopen(f"{self.url}/livez") as answer:
            return bool(answer.status == 200)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def complaints(self) -> list[str]:
        """Lines of its log that no rolling upgrade may cause."""
        words = ("Traceback", "cannot be read", "unavailable", "failed")
        return [line for line in self.log.read_text().splitlines() if any(w in line for w in words)]

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON of a request of an operator."""
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.url + path, headers=ADMIN, **options) as response,
        ):
            body = await response.read()
            return response.status, await response.json(content_type=None) if body else None

    async def owners(self, text: str) -> list[str]:
        """Names of the locations that have an image, by the index."""
        _, body = await self.call("GET", f"/resolve/{text}")
        return sorted(owner["location"] for owner in body.get("owners", ()))
