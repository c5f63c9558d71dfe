"""A real Keystone for tests: one process on loopback, over SQLite."""

from __future__ import annotations

import http.client
import shutil
from pathlib import Path
from typing import Any, Self

from tests.glance.install import KEYSTONE_PASSWORD, KeystoneHome, write_keystone_config
from tests.support.glance import Answer, call
from tests.support.process import ServerProcess, clean_environment, log_tail

SERVE = Path(__file__).resolve().parents[1] / "glance" / "serve_keystone.py"


class KeystoneServer(ServerProcess):
    """One Keystone process with a project ``admin``, its user of that name, and what Glance needs:
    the user ``glance`` and the image service."""

    name = "keystone"

    def __init__(self, home: KeystoneHome, directory: Path) -> None:
        super().__init__(directory)
        self.home = home
        self._token = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def _config(self) -> Path:
        return self.directory / "etc" / "keystone.conf"

    def environment(self) -> dict[str, str]:
        return clean_environment(OS_KEYSTONE_CONFIG_DIR=str(self._config.parent))

    def prepare(self) -> None:
        shutil.copytree(self.home.template, self.directory, dirs_exist_ok=True)
        write_keystone_config(self.directory)

    def command(self) -> list[str | Path]:
        return [self.home.bin("python"), SERVE, str(self.port)]

    def is_ready(self) -> bool:
        try:
            return call(self.url, "GET", "/v3").status == 200
        except http.client.HTTPException:
            return False

    def start(self) -> Self:
        super().start()
        try:
            self._token = self.token("admin", KEYSTONE_PASSWORD, "admin")
            identity = self.make("service", type="identity", name="keystone")["id"]
            for interface in ("admin", "public", "internal"):
                self._endpoint(identity, interface, "one", f"{self.url}/v3")
            self.user("glance", "glance", "service", "admin", "service")
            self._image_service = self.make("service", type="image", name="glance")["id"]
        except BaseException:
            self.kill()
            raise
        return self

    def request(self, method: str, path: str, body: Any = None, token: str = "") -> Answer:
        """One request, as admin unless a token is given."""
        answer = call(self.url, method, path, body, {"X-Auth-Token": token or self._token})
        assert answer.status < 300, f"{method} {path}: {answer}\n{log_tail(self.log)}"
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
        regions = self.request("GET", "/v3/regions").json()["regions"]
        if region not in {known["id"] for known in regions}:
            self.make("region", id=region)
        self._endpoint(self._image_service, "public", region, url)

    def _endpoint(self, service: str, interface: str, region: str, url: str) -> None:
        self.make("endpoint", service_id=service, interface=interface, region_id=region, url=url)
