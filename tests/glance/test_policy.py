"""A real Glance whose policy knows another admin than the role of that name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from resolver.errors import LocationUnavailable
from resolver.glance import (
    CloudCredentials,
    CredentialScope,
    GlanceServer,
    ImageProbe,
    RateLimits,
    connect,
    sees_all,
)
from resolver.index import Index
from resolver.models import Location, parse_id
from tests.glance.install import GlanceHome
from tests.support.glance import GlanceProcess
from tests.support.sweeping import Sweeping

pytestmark = pytest.mark.glance

TOKEN = "GLANCE_POLICY_TOKEN"
KEEPER = "keeper:service:image_keeper"

POLICY = """
"context_is_admin": "role:image_keeper"
"default": "role:member"
"add_image": ""
"publicize_image": "role:image_keeper"
"get_images": "role:member or role:image_keeper"
"get_image": "role:member or role:image_keeper"
"tasks_api_access": "role:image_keeper"
"get_tasks": "role:image_keeper"
"""


@pytest.fixture(scope="module")
def glance(
    glance_home: GlanceHome, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GlanceProcess]:
    """Its first caller keeps the images of all projects; the token names a caller's roles."""
    token = f"{KEEPER},member,admin"
    directory = tmp_path_factory.mktemp("policy")
    with GlanceProcess(glance_home, directory, policy=POLICY, token=token) as server:
        server.create(visibility="private", owner="p")
        yield server


async def scope_of(glance: GlanceProcess, token: str, monkeypatch: Any) -> CredentialScope:
    monkeypatch.setenv(TOKEN, token)
    location = Location(name="one", url=glance.url, auth={"token_env": TOKEN})
    async with connect(10) as session:
        server = GlanceServer(session, location)
        return await sees_all(server, await server.versions())


async def test_the_scope_of_an_admin_role_depends_on_its_permissions(
    glance: GlanceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope = await scope_of(glance, "customer:q:admin,member", monkeypatch)
    assert (scope.sees_all, scope.why) == (False, "it may not list tasks, which is for admins")


async def test_another_role_with_the_rights_of_an_admin_is_recognized(
    glance: GlanceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await scope_of(glance, KEEPER, monkeypatch)).sees_all is True


async def test_a_credential_that_loses_these_rights_releases_nothing(
    index: Index, glance: GlanceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it keeps the role ``admin`` and is registered to see all: neither a sweep nor a poll
    nor a question counts what it does not see, whatever the shrink guard allows."""
    monkeypatch.setenv(TOKEN, KEEPER)
    image = glance.create(visibility="private", owner="p")
    async with connect(10) as session:
        sweeping = Sweeping(index, session)
        location = await sweeping.register(glance, auth={"token_env": TOKEN}, sees_all=True)
        swept = await sweeping.sweep(location)
        assert swept.sees_all_proven
        claimed = await sweeping.claimed(location)
        assert image.id in claimed
        monkeypatch.setenv(TOKEN, "customer:q:admin,member")
        with pytest.raises(LocationUnavailable, match="sees less than before"):
            await sweeping.sweep(location, guard=1.0)
        with pytest.raises(LocationUnavailable, match="sees less than before"):
            await sweeping.poll(location, swept=swept)
        assert await sweeping.claimed(location) == claimed
        server = GlanceServer(session, location)
        probe = ImageProbe(session, CloudCredentials(), RateLimits(), sweeping.scopes)
        versions = await server.versions()
        answer = await probe.ask(location, versions, parse_id(image.id), (0,))
        assert answer.letter_case is None, "this caller may not see the image"
        with pytest.raises(LocationUnavailable, match="sees less than before"):
            await probe.scope(location, versions, answer, was_proven=True)
