"""A Keystone of a few lines: it accepts every password, and its tokens say what a test wants.

It says of the tokens of clients what a test wants, too."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Sequence
from typing import Any, Self

from aiohttp import web


class FakeKeystone:
    """Issues tokens called ``TOKEN-1``, ``TOKEN-2``, … on a project."""

    def __init__(
        self,
        token: str = "token",
        *,
        catalog: Sequence[dict[str, Any]] = (),
        roles: Sequence[str] = ("admin",),
    ) -> None:
        self.token = token
        self.catalog = list(catalog)
        self.roles = list(roles)
        self.logins = 0
        self.login_gate = asyncio.Event()
        """Logins wait while it is cleared."""
        self.login_gate.set()
        self.accepted: dict[str, str] = {}
        """When clients' tokens end, by token."""
        self.asked: list[tuple[str, str]] = []
        """Who was asked about which token: both tokens of each question."""
        self.may_ask = True
        """Whether others than a token itself may ask about it."""
        self.fault: int | None = None
        """The status of answers about tokens, where they are errors of a proxy."""
        self.passwords: list[str] = []
        """The `Authorization` of each request that had one."""
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> Self:
        """Listens on loopback, with https where ``tls`` is given."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls).start()
        port = self._runner.addresses[0][1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/v3"
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        return self if self._runner else await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def auth(self) -> dict[str, str]:
        """The `auth` of a cloud in clouds.yaml."""
        return {
            "auth_url": self.url,
            "username": "sweep",
            "password": "secret-password",
            "project_name": "admin",
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        }

    async def _answer(self, request: web.Request) -> web.Response:
        self.passwords += request.headers.getall("Authorization", ())
        if request.method == "GET" and request.path == "/v3/auth/tokens":
            asking, subject = (request.headers[f"X-{kind}-Token"] for kind in ("Auth", "Subject"))
            self.asked.append((asking, subject))
            return self._about(asking, subject)
        if request.method == "POST" and request.path == "/v3/auth/tokens":
            self.logins += 1
            await self.login_gate.wait()
            domain = {"id": "default", "name": "Default"}
            token = {
                "methods": ["password"],
                "user": {"id": "u", "name": "sweep", "domain": domain},
                "project": {"id": "p", "name": "admin", "domain": domain},
                "roles": [{"id": role, "name": role} for role in self.roles],
                "catalog": self.catalog,
                "issued_at": "2026-01-01T00:00:00.000000Z",
                "expires_at": "2126-01-01T00:00:00.000000Z",
            }
            headers = {"X-Subject-Token": f"{self.token}-{self.logins}"}
            return web.json_response({"token": token}, status=201, headers=headers)
        links = [{"rel": "self", "href": f"{self.url}/"}]
        version = {"id": "v3.14", "status": "stable", "links": links}
        if request.path.rstrip("/") == "/v3":
            return web.json_response({"version": version})
        return web.Response(
            text=json.dumps({"versions": {"values": [version]}}),
            status=300,
            content_type="application/json",
        )

    def _about(self, asking: str, subject: str) -> web.Response:
        """As Keystone: 401 to who is nobody, 403 to who may not ask, 404 about what is no token."""
        if self.fault is not None:
            return web.Response(status=self.fault, text="<html>no JSON</html>")
        status = 200 if subject in self.accepted else 404
        if asking == subject:
            status = 200 if subject in self.accepted else 401
        elif not asking.startswith(self.token):
            status = 401
        elif not self.may_ask:
            status = 403
        if status != 200:
            error = {"code": status, "title": "No", "message": "It is not."}
            return web.json_response({"error": error}, status=status)
        return web.json_response({"token": {"expires_at": self.accepted[subject]}})
