"""A real Keystone for tests: one process on loopback, over SQLite."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

from tests.glance.install import KeystoneHome, tail, write_keystone_config
from tests.support.glance import START_TIMEOUT, Answer, Served, call, wait_until
from tests.support.redis import free_port

SERVE = Path(__file__).resolve().parents[1] / "glance" / "serve_keystone.py"
PASSWORD = "keystone-admin-secret"
"""Password of the first admin."""


class KeystoneServer(Served):
    """One Keystone process with a project ``admin``, its user of that name, and what Glance needs:
    the user ``glance`` and the image service."""

    def __init__(self, home: KeystoneHome, directory: Path) -> None:
        self.home = home
        self.directory = directory.absolute()
        self.port = free_port()
        self.log = self.directory / "keystone.log"
        self._token = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        shutil.copytree(self.home.template, self.directory)
        conf = write_keystone_config(self.directory)
        identity = f"{self.url}/v3"
        bootstrap = ["--bootstrap-password", PASSWORD, "--bootstrap-region-id", "one"]
        for interface in ("admin", "public", "internal"):
            bootstrap += [f"--bootstrap-{interface}-url", identity]
        manage = [self.home.bin("keystone-manage"), "--config-file", conf, "bootstrap", *bootstrap]
        env = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        env["OS_KEYSTONE_CONFIG_DIR"] = str(conf.parent)
        with self.log.open("a") as log:
            subprocess.run(manage, stdout=log, stderr=log, env=env, check=True)
            self._process = subprocess.Popen(
                [self.home.bin("python"), str(SERVE), str(self.port)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=env,
            )
        try:
            wait_until(self._answers, "Keystone's start", START_TIMEOUT)
            self._token = self.token("admin", PASSWORD, "admin")
            self.user("glance", "glance", "service", "admin", "service")
            self._image = self.make("service", type="image", name="glance")["id"]
        except BaseException:
            self.stop()
            raise
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, tail(self.log)
        try:
            return call(self.url, "GET", "/v3").status == 200
        except (OSError, http.client.HTTPException):
            return False

    def request(self, method: str, path: str, body: Any = None, token: str = "") -> Answer:
        """One request, as admin unless a token is given."""
        answer = call(self.url, method, path, body, {"X-Auth-Token": token or self._token})
        assert answer.status < 300, f"{method} {path}: {answer}\n{tail(self.log)}"
        return answer

    def token(self, user: str, password: str, project: str) -> str:
        """A new token of a user on a project."""
        default = {"id": "default"}
        identity = {"user": {"name": user, "password": password, "domain": default}}
        scope = {"project": {"name": project, "domain": default}}
        auth = {"identity": {"methods": ["password"], "password": identity}, "scope": scope}
        answer = call(self.url, "POST", "/v3/auth/tokens", {"auth": auth})
        assert answer.status == 201, answer
        return answer.headers["X-Subject-Token"]

    def make(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Creates a resource of a kind, such as ``role``."""
        made: dict[str, Any] = self.request("POST", f"/v3/{kind}s", {kind: fields}).json()[kind]
        return made

    def _named(self, kind: str, name: str) -> str:
        found = self.request("GET", f"/v3/{kind}s?name={name}").json()[f"{kind}s"]
        return str(found[0]["id"] if found else self.make(kind, name=name)["id"])

    def user(self, name: str, password: str, project: str, *roles: str) -> str:
        """A new user with these roles on a project; returns its id.

        Its first password is given with it: a change would end all tokens of that second.
        """
        user = str(self.make("user", name=name, password=password)["id"])
        for role in roles:
            where = f"projects/{self._named('project', project)}/users/{user}"
            self.request("PUT", f"/v3/{where}/roles/{self._named('role', role)}")
        return user

    def password(self, user: str, password: str) -> None:
        """Gives a user, by its id, another password; its tokens end with that."""
        self.request("PATCH", f"/v3/users/{user}", {"user": {"password": password}})

    def application_credential(self, user: str, token: str) -> dict[str, str]:
        """A new one for a user, made with the user's own token: its ``id`` and ``secret``."""
        body = {"application_credential": {"name": "resolver"}}
        path = f"/v3/users/{user}/application_credentials"
        made: dict[str, str] = self.request("POST", path, body, token).json()[
            "application_credential"
        ]
        return made

    def image_endpoint(self, region: str, url: str) -> None:
        """Adds a Glance to the catalog."""
        have = {one["id"] for one in self.request("GET", "/v3/regions").json()["regions"]}
        if region not in have:
            self.make("region", id=region)
        self.make("endpoint", service_id=self._image, interface="public", region_id=region, url=url)
