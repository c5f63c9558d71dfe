"""Real Glance servers for tests: one process each, on loopback, over SQLite and a file store."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import urllib.parse
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from tests.glance.install import LIMIT, Auth, GlanceHome, write_config
from tests.support.process import ServerProcess, clean_environment, log_tail

SERVE = Path(__file__).resolve().parents[1] / "glance" / "serve_glance.py"
ADMIN_TOKEN = "x"
HTTP_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def call(
    url: str,
    method: str,
    target: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request; a body of bytes goes as it is, any other as JSON. Follows no redirect.

    Raises:
        OSError, http.client.HTTPException: when nothing answers.
    """
    sent = dict(headers or {})
    if isinstance(body, bytes):
        sent.setdefault("Content-Type", "application/octet-stream")
    elif body is not None:
        sent.setdefault("Content-Type", "application/json")
        body = json.dumps(body)
    netloc = urllib.parse.urlsplit(url).netloc
    connection = http.client.HTTPConnection(netloc, timeout=HTTP_TIMEOUT_SECONDS)
    try:
        connection.request(method, target, body, sent)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


@dataclass(frozen=True)
class Image:
    id: str
    data: bytes
    """Empty while queued."""
    queued: bool = False


class GlanceProcess(ServerProcess):
    """One Glance process. Stopped and started again it keeps its port and its images.

    `limit` is the server's cap on a page of its listing; `keystone` the URL of a Keystone whose
    tokens it accepts, and `token` the one that a test's own requests carry. `policy` is the text of
    its policy file, in place of that for `auth`, and
    `options` are added to its configuration.
    """

    name = "glance"

    def __init__(
        self,
        home: GlanceHome,
        directory: Path,
        *,
        auth: Auth = "fake",
        limit: int = LIMIT,
        keystone: str = "",
        token: str = ADMIN_TOKEN,
        broker: str = "",
        policy: str = "",
        options: str = "",
    ) -> None:
        super().__init__(directory)
        self.home = home
        self.auth: Auth = auth
        self.limit = limit
        self.keystone = keystone
        self.token = token
        self.broker = broker
        self.policy = policy
        self.options = options

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def choose_ports(self) -> None:
        """The server takes a free port and writes it to a file."""

    def prepare(self) -> None:
        if not (self.directory / "glance.sqlite").exists():
            write_config(
                self.directory, self.auth, self.limit, keystone=self.keystone, broker=self.broker
            )
            with (self.directory / "etc" / "glance-api.conf").open("a") as config:
                config.write(self.options)
            if self.policy:
                (self.directory / "etc" / "policy.yaml").write_text(self.policy)
            shutil.copy(self.home.template, self.directory / "glance.sqlite")
        (self.directory / "port").unlink(missing_ok=True)

    def command(self) -> list[str | Path]:
        return [self.home.bin("python"), SERVE, self.directory, str(self.port)]

    def environment(self) -> dict[str, str]:
        return clean_environment(
            OS_GLANCE_CONFIG_DIR=str(self.directory / "etc"), PYTHONDONTWRITEBYTECODE="1"
        )

    def is_ready(self) -> bool:
        port = self.directory / "port"
        if not port.exists():
            return False
        self.port = int(port.read_text())
        try:
            return self.request("GET", "/healthcheck").status == 200
        except http.client.HTTPException:
            return False

    def request(self, method: str, target: str, body: Any = None) -> Answer:
        """One call as admin."""
        return call(self.url, method, target, body, {"X-Auth-Token": self.token})

    def _expect(self, status: int, method: str, target: str, body: Any = None) -> Answer:
        answer = self.request(method, target, body)
        assert answer.status == status, f"{method} {target}: {answer}\n{log_tail(self.log)}"
        return answer

    def create(
        self,
        image_id: str | None = None,
        *,
        data: bytes | None = None,
        queued: bool = False,
        visibility: str = "public",
        hidden: bool = False,
        owner: str = "admin",
    ) -> Image:
        """Creates an image as admin, with random bytes unless `data` or `queued` is given."""
        image_id = image_id or str(uuid.uuid4())
        body = {
            "id": image_id,
            "name": f"image-{image_id[:8]}",
            "owner": owner,
            "visibility": visibility,
            "os_hidden": hidden,
            "disk_format": "raw",
            "container_format": "bare",
        }
        self._expect(201, "POST", "/v2/images", body)
        if queued:
            return Image(image_id, b"", queued=True)
        content = data or os.urandom(1000).hex().encode()  # no image format begins or ends so
        self._expect(204, "PUT", f"/v2/images/{image_id}/file", content)
        return Image(image_id, content)

    def create_public(self) -> Image:
        return self.create()

    def create_private(self, owner: str = "elsewhere") -> Image:
        return self.create(visibility="private", owner=owner)

    def create_community(self, owner: str = "elsewhere") -> Image:
        return self.create(visibility="community", owner=owner)

    def create_hidden(self) -> Image:
        return self.create(hidden=True)

    def create_queued(self) -> Image:
        return self.create(queued=True)

    def delete(self, image_id: str) -> None:
        self._expect(204, "DELETE", f"/v2/images/{image_id}")

    def ids(self) -> set[str]:
        """Every image's id as Glance spells it, hidden ones and other projects' included."""
        found: set[str] = set()
        for hidden in ("false", "true"):
            query = {"visibility": "all", "os_hidden": hidden, "sort": "id:asc", "limit": "100"}
            while True:
                target = f"/v2/images?{urllib.parse.urlencode(query)}"
                page = [image["id"] for image in self._expect(200, "GET", target).json()["images"]]
                if not page:
                    break
                found.update(page)
                query["marker"] = page[-1]
        return found

    def accesses(self) -> list[str]:
        """Requests served so far, oldest first, each ``METHOD target status``."""
        return (self.directory / "access.log").read_text().splitlines()
