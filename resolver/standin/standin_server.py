"""The server: versions, tokens and the dispatch of calls."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Middleware

from resolver.standin import v1 as v1_api
from resolver.standin import v2 as v2_api
from resolver.standin.answers import Fault, fail, json_value
from resolver.standin.call import Call, Caller
from resolver.standin.image_store import Images
from resolver.standin.route import Route

MAX_BODY_BYTES = 64 << 20
"""Largest upload; it stays in memory."""

_MINOR_VERSIONS = (15, 13, 12, 11, 10, 9, 8, 17, 7, 6, 5, 4, 3, 2, 1, 0)  # in Glance 33's order


class StandIn(Images):
    """A Glance server whose images the demo and the tests choose.

    `old` makes it Glance 15 (Pike). `tokens` maps `X-Auth-Token` to its caller; with None no token
    is needed and every caller is an admin; with `anonymous`, a caller without a known token sees
    what everybody may see, as with Glance's `allow_anonymous_access`. `prefix` is the path of the
    base URL. Links in answers lack it, as if a proxy removed it from requests.

    `requests` counts calls by method and kind of route: `images image file members tag schema
    tasks task v1-images v1-image versions healthcheck unknown`. Calls that one of `middlewares`
    answers are not counted.
    """

    def __init__(
        self,
        *,
        v1: bool = False,
        v2: bool = True,
        old: bool = False,
        tokens: Mapping[str, Caller] | None = None,
        anonymous: bool = False,
        prefix: str = "",
        page_default: int = 25,
        page_cap: int = 1000,
        middlewares: Sequence[Middleware] = (),
    ) -> None:
        super().__init__()
        self.v1, self.v2, self.old, self.tokens = v1, v2, old, tokens
        self.anonymous = anonymous
        self.prefix, self.middlewares = prefix.rstrip("/"), list(middlewares)
        self.page_default, self.page_cap = page_default, page_cap
        self.requests: Counter[tuple[str, str]] = Counter()
        self.host, self.port = "127.0.0.1", 0
        self._routes: list[Route] = [*(v2_api.ROUTES if v2 else ()), *(v1_api.ROUTES if v1 else ())]
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Base URL with the prefix, as operators register it."""
        return f"http://{self.host}:{self.port}{self.prefix}"

    def app(self) -> web.Application:
        """A new application with these images, for callers that run a server of their own."""
        app = web.Application(middlewares=self.middlewares, client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._dispatch)
        return app

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> Self:
        """Starts to listen; port 0 picks a free one. Can be called again after `stop`."""
        self._runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.host, self.port = host, self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        """Closes the socket and all connections. The images stay."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        return self if self._runner else await self.start()

    async def __aexit__(self, *failure: object) -> None:
        await self.stop()

    async def _dispatch(self, request: web.Request) -> web.Response:
        try:
            return await self._answer(request)
        except Fault as fault:
            response = fault.response()
            if fault.status != 401:  # that is Keystone's middleware
                _add_request_id(response)
            return response

    async def _answer(self, request: web.Request) -> web.Response:
        if not request.path.startswith(f"{self.prefix}/") and request.path != self.prefix:
            fail(404, "Nothing here but Glance, below its prefix.")
        path = request.path.removeprefix(self.prefix) or "/"
        names = [name for name, _ in self._versions()]
        version = re.match(r"/(v(\d+)(?:\.\d+)?)(?=/|$)", path)
        if version is None or version[1] not in {*names, *(name.split(".")[0] for name in names)}:
            return self._unversioned(request, path)
        # All minor versions are served alike, and links in answers have the major one.
        path = f"/v{version[2]}{path[version.end() :]}"
        route, found = next(
            ((route, match) for route in self._routes if (match := route.pattern.fullmatch(path))),
            (None, None),
        )
        self.requests[request.method, route.kind if route else "unknown"] += 1
        call = self._call(request)
        if path.count("/") == 1:
            return web.Response(status=302, headers={"Location": call.link(f"{path}/")})
        if route is None or found is None:
            fail(404, "The resource could not be found.")
        if (handler := route.methods.get(request.method)) is None:
            text = f"The method {request.method} is not allowed for this resource."
            fail(405, text, Allow=", ".join(route.methods))
        response = await handler(call, *found.groups())
        _add_request_id(response)
        return response

    def _unversioned(self, request: web.Request, path: str) -> web.Response:
        """Answers without a token. Paths of unknown versions get the version document, 300."""
        kind = {"/": "versions", "/versions": "versions", "/healthcheck": "healthcheck"}.get(path)
        self.requests[request.method, kind or "unknown"] += 1
        if kind == "healthcheck":
            return web.Response(text="OK")
        versions = [
            {"id": name, "status": status, "links": [{"rel": "self", "href": link}]}
            for name, status in self._versions()
            if (link := f"{request.scheme}://{request.host}/{name.split('.')[0]}/")
        ]
        return json_value({"versions": versions}, status=200 if path == "/versions" else 300)

    def _versions(self) -> list[tuple[str, str]]:
        minors = [minor for minor in _MINOR_VERSIONS if minor <= 5 or not self.old]
        latest = max(minors)
        v2 = [(f"v2.{m}", "CURRENT" if m == latest else "SUPPORTED") for m in minors]
        return v2 * self.v2 + [("v1.1", "DEPRECATED"), ("v1.0", "DEPRECATED")] * self.v1

    def _call(self, request: web.Request) -> Call:
        return Call(
            request=request,
            caller=self._caller(request),
            images=self,
            old=self.old,
            page_default=self.page_default,
            page_cap=self.page_cap,
        )

    def _caller(self, request: web.Request) -> Caller:
        if self.tokens is None:
            return Caller("admin", admin=True)
        if caller := self.tokens.get(request.headers.get("X-Auth-Token", "")):
            return caller
        if self.anonymous:
            return Caller("")
        fail(401, "This server could not verify that you are authorized to access the document.")


def _add_request_id(response: web.Response) -> None:
    response.headers["X-Openstack-Request-Id"] = f"req-{uuid.uuid4()}"
