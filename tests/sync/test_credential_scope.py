"""What a credential sees is what the server lets it do, now: roles and earlier answers prove
nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.errors import LocationUnavailable
from resolver.glance import CredentialScope, GlanceServer, ScopeCache, sees_all
from resolver.glance.credential_scope import NO_TASK
from resolver.models import Location, Sweep
from resolver.standin import Caller, StandIn
from tests.support.faults import Switch, is_page
from tests.support.sweeping import Sweeping
from tests.sync.conftest import StartServer

TOKEN = "GLANCE_SCOPE_TOKEN"
Find = Callable[..., Awaitable[CredentialScope]]


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "ours")


@pytest.fixture
def find(sweeping: Sweeping) -> Find:
    async def find_scope(server: StandIn, **fields: object) -> CredentialScope:
        location = Location(name="one", url=server.url, auth={"token_env": TOKEN}, **fields)  # type: ignore[arg-type]
        glance = GlanceServer(sweeping.session, location)
        return await sees_all(glance, await glance.versions())

    return find_scope


def is_listing(request: web.Request) -> bool:
    """Whether a request is for a page of the sweep, rather than about what the credential sees."""
    return is_page(request) and request.query["limit"] == "1000"


async def no_tasks(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A policy that keeps tasks from everybody."""
    if request.path == "/v2/tasks":
        return web.Response(status=403)
    return await handler(request)


async def test_an_admin_is_recognized_by_private_images_of_several_projects(
    start_server: StartServer, switch: Switch, find: Find
) -> None:
    switch.fault = no_tasks
    callers = {"ours": Caller("p", admin=True)}
    server = await start_server(tokens=callers, middlewares=[switch.middleware])
    server.add(visibility="private", owner="p")
    assert (await find(server)).sees_all is False
    server.add(visibility="private", owner="q")
    found = await find(server)
    assert (found.sees_all, found.why) == (True, "it lists private images of several projects")


async def test_shared_images_do_not_prove_an_admin_credential(
    start_server: StartServer, find: Find
) -> None:
    server = await start_server(tokens={"ours": Caller("p")})
    server.add(visibility="private", owner="p")
    server.add(visibility="private", owner="q")
    for owner in ("q", "r"):
        server.add(visibility="shared", owner=owner, members=("p",))
        server.add(visibility="public", owner=owner)
        server.add(visibility="community", owner=owner)
    assert (await find(server)).sees_all is False


async def test_before_a_health_check_the_reason_is_that(
    start_server: StartServer, sweeping: Sweeping
) -> None:
    server = await start_server(tokens={"ours": Caller("p", admin=True)})
    location = Location(name="one", url=server.url, auth={"token_env": TOKEN})
    scope = await sees_all(GlanceServer(sweeping.session, location), ())
    assert scope.sees_all is None
    assert "health check" in scope.why


async def test_an_admin_of_an_old_server_is_recognized_too(
    start_server: StartServer, find: Find
) -> None:
    """There the tasks are for everybody."""
    server = await start_server(old=True, tokens={"ours": Caller("p", admin=True)})
    server.add(visibility="private", owner="p")
    assert (await find(server)).sees_all is None
    server.add(visibility="private", owner="q")
    assert (await find(server)).sees_all is True


@pytest.mark.parametrize("registered", [None, True])
async def test_an_invalid_token_is_detected_where_anonymous_requests_are_answered(
    start_server: StartServer, find: Find, registered: bool | None
) -> None:
    server = await start_server(tokens={"ours": Caller("p", admin=True)}, anonymous=True)
    server.add(visibility="private", owner="q")
    assert (await find(server, sees_all=registered)).sees_all is True
    server.tokens = {}
    if registered:
        with pytest.raises(LocationUnavailable, match="answers anonymous clients"):
            await find(server, sees_all=True)
    else:
        assert (await find(server)).sees_all is False


async def test_registered_sees_all_is_used_where_anonymous_requests_are_refused(
    start_server: StartServer, find: Find
) -> None:
    server = await start_server(tokens={"ours": Caller("p")})
    assert (await find(server, sees_all=True)).sees_all is True


@pytest.mark.parametrize("page", range(1, 6))
@pytest.mark.parametrize("registered", [None, True])
async def test_a_token_that_expires_during_a_sweep_releases_nothing(
    sweeping: Sweeping,
    start_server: StartServer,
    switch: Switch,
    page: int,
    registered: bool | None,
) -> None:
    """From then on the server answers 200 as without a token, also when asked about one image."""
    server = await start_server(
        tokens={"ours": Caller("p", admin=True)},
        anonymous=True,
        middlewares=[switch.middleware],
        page_cap=5,
    )
    for number in range(12):
        server.add(visibility="public", name=str(number))
    for owner in ("p", "q", "r"):  # fewer than the shrink guard notices
        server.add(visibility="private", owner=owner)
    auth = {"auth": {"token_env": TOKEN}, "sees_all": registered}
    location = await sweeping.register(server, **auth)
    await sweeping.sweep(location)
    before = await sweeping.claimed(location)
    assert len(before) == 15
    seen = 0

    async def dies(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal seen
        seen += is_listing(request)
        if seen >= page:
            server.tokens = {}
        return await handler(request)

    switch.fault = dies
    with pytest.raises(LocationUnavailable) as caught:
        await sweeping.sweep(location)
    assert caught.value.problem_code == "unauthorized"
    assert await sweeping.claimed(location) == before


async def test_a_credential_that_loses_its_role_during_a_sweep_releases_nothing(
    sweeping: Sweeping, start_server: StartServer, switch: Switch
) -> None:
    server = await start_server(
        tokens={"ours": Caller("p", admin=True)}, middlewares=[switch.middleware]
    )
    server.fill(12, seed=3)
    for owner in ("p", "q", "r"):
        server.add(visibility="private", owner=owner)
    location = await sweeping.register(server, auth={"token_env": TOKEN})
    await sweeping.sweep(location)
    before = await sweeping.claimed(location)

    async def loses_role(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_listing(request):
            server.tokens = {"ours": Caller("p")}
        return await handler(request)

    switch.fault = loses_role
    with pytest.raises(LocationUnavailable, match="saw every image when the sweep began"):
        await sweeping.sweep(location)
    assert await sweeping.claimed(location) == before


@pytest.mark.parametrize("how", ["sweep", "poll"])
@pytest.mark.parametrize("proof", ["tasks", "private images"])
async def test_a_credential_that_proves_less_than_before_releases_nothing(
    sweeping: Sweeping, start_server: StartServer, switch: Switch, how: str, proof: str
) -> None:
    """Though it is registered to see all, and whatever share the shrink guard allows."""
    if proof != "tasks":
        switch.fault = no_tasks
    server = await start_server(
        tokens={"ours": Caller("p", admin=True)}, middlewares=[switch.middleware]
    )
    server.fill(10, seed=3)
    for owner in ("p", "q") if proof != "tasks" else ("q",):
        server.add(visibility="private", owner=owner)
    location = await sweeping.register(server, auth={"token_env": TOKEN}, sees_all=True)
    swept = await sweeping.sweep(location)
    assert swept.sees_all_proven
    before = await sweeping.claimed(location)
    server.tokens = {"ours": Caller("p")}

    async def read_again() -> object:
        if how == "sweep":
            return await sweeping.sweep(location, guard=1.0)
        return await sweeping.poll(location, swept=swept)

    for scopes in (sweeping.scopes, ScopeCache()):  # a process that has just started, too
        sweeping.scopes = scopes
        with pytest.raises(LocationUnavailable, match="sees less than before") as caught:
            await read_again()
        assert caught.value.problem_code == "unauthorized"
        assert await sweeping.claimed(location) == before
    # It was the server's policy that changed, and an operator says so.
    confirmed = await sweeping.sweep(location, confirm_shrink=True)
    assert (confirmed.sees_all, confirmed.sees_all_proven) == (True, False)
    assert (await sweeping.sweep(location)).released == 0


async def test_an_admin_is_recognized_though_the_latest_images_are_of_one_project(
    start_server: StartServer, switch: Switch, find: Find
) -> None:
    switch.fault = no_tasks
    callers = {"ours": Caller("p", admin=True)}
    server = await start_server(tokens=callers, middlewares=[switch.middleware])
    server.add(id="00000000-0000-4000-8000-000000000000", visibility="private", owner="q")
    for _ in range(100):
        server.add(visibility="private", owner="busy")
    assert (await find(server)).sees_all is True


async def test_a_poll_repeats_the_proof_with_one_small_read(
    sweeping: Sweeping, start_server: StartServer, switch: Switch
) -> None:
    server = await start_server(
        tokens={"ours": Caller("p", admin=True)}, middlewares=[switch.middleware]
    )
    server.add(visibility="private", owner="q")
    location = await sweeping.register(server, auth={"token_env": TOKEN})
    proofs: list[str] = []

    async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
        if "tasks" in request.path or request.query.get("visibility") == "private":
            proofs.append(request.path)
        return await handler(request)

    swept = await sweeping.sweep(location)
    switch.fault = record
    polled = await sweeping.poll(location, swept=swept)
    assert proofs == [f"/v2/tasks/{NO_TASK}"]
    server.tokens = {"ours": Caller("p")}
    with pytest.raises(LocationUnavailable, match="no longer sees every image"):
        await sweeping.poll(location, polled, swept)


async def test_a_credential_that_gets_its_rights_back_is_recognized_at_once(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    """Whatever was found out before is cached."""
    server = await start_server(tokens={"ours": Caller("p")})
    server.add(visibility="private", owner="q")
    location = await sweeping.register(server, auth={"token_env": TOKEN})
    assert (await sweeping.sweep(location)).sees_all is False
    server.tokens = {"ours": Caller("p", admin=True)}
    assert (await sweeping.sweep(location)).sees_all is True


class Renewal:
    """A server that answers anonymous clients too, and a token that is replaced after some pages of
    a listing. The old one ends before, or later."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, server: StandIn, *, ends_first: bool):
        self._monkeypatch = monkeypatch
        self._server = server
        self._ends_first = ends_first
        self.pages = 0
        self.fails_at = 0

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_listing(request):
            self.pages += 1
            if self.pages == 3:
                admin = Caller("p", admin=True)
                old = {} if self._ends_first else {"ours": admin}
                self._server.tokens = {**old, "new": admin}
            if self.pages == self.fails_at:
                return web.Response(status=502)
            if self.pages == 5:
                self._monkeypatch.setenv(TOKEN, "new")
        return await handler(request)


@pytest.fixture
async def anonymous(start_server: StartServer, switch: Switch) -> StandIn:
    """A server with private images of several projects."""
    tokens = {"ours": Caller("p", admin=True)}
    middlewares = [switch.middleware]
    server = await start_server(tokens=tokens, anonymous=True, page_cap=5, middlewares=middlewares)
    server.fill(30, seed=3)
    for number in range(30):
        server.add(visibility="private", owner=f"q{number % 3}")
    return server


@pytest.mark.parametrize("ends_first", [True, False])
@pytest.mark.parametrize("how", ["sweep", "poll"])
async def test_a_listing_counts_if_the_token_that_was_replaced_is_still_accepted(
    sweeping: Sweeping,
    anonymous: StandIn,
    switch: Switch,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    ends_first: bool,
) -> None:
    """Otherwise pages in between may be those that an anonymous client sees."""
    location = await sweeping.register(anonymous, auth={"token_env": TOKEN})
    switch.fault = Renewal(monkeypatch, anonymous, ends_first=ends_first)
    swept = Sweep(started=1.0, ended=1.0, sees_all=True)
    reading = sweeping.sweep(location) if how == "sweep" else sweeping.poll(location, swept=swept)
    if ends_first:
        with pytest.raises(LocationUnavailable, match="the old one is not accepted any more"):
            await reading
    else:
        await reading
        assert len(await sweeping.claimed(location)) == 60


async def test_a_token_that_ends_during_a_sweep_where_anonymous_clients_are_refused(
    sweeping: Sweeping, anonymous: StandIn, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead token is refused there, so each page was listed with one that lived."""
    anonymous.anonymous = False
    location = await sweeping.register(anonymous, auth={"token_env": TOKEN})
    admin = Caller("p", admin=True)

    async def replace(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if is_listing(request) and request.query.get("marker"):
            monkeypatch.setenv(TOKEN, "new")
            anonymous.tokens = {"new": admin}
        return response

    switch.fault = replace
    assert (await sweeping.sweep(location)).images == 60


async def test_a_sweep_does_not_continue_what_an_ended_token_listed(
    sweeping: Sweeping, anonymous: StandIn, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = await sweeping.register(anonymous, auth={"token_env": TOKEN})
    switch.fault = renewal = Renewal(monkeypatch, anonymous, ends_first=True)
    renewal.fails_at = 4
    with pytest.raises(LocationUnavailable) as caught:
        await sweeping.sweep(location)
    assert caught.value.problem_code == "unauthorized"
