"""A real Glance whose policy knows another admin than the role of that name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from resolver.glance import CredentialScope, GlanceServer, connect, sees_all
from resolver.models import Location
from tests.glance.install import GlanceHome
from tests.support.glance import GlanceProcess

pytestmark = pytest.mark.glance

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
    token = "keeper:service:image_keeper,member,admin"
    directory = tmp_path_factory.mktemp("policy")
    with GlanceProcess(glance_home, directory, policy=POLICY, token=token) as server:
        server.create(visibility="private", owner="p")
        yield server


async def scope_of(glance: GlanceProcess, token: str, monkeypatch: Any) -> CredentialScope:
    monkeypatch.setenv("GLANCE_POLICY_TOKEN", token)
    location = Location(name="one", url=glance.url, auth={"token_env": "GLANCE_POLICY_TOKEN"})
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
    assert (await scope_of(glance, "keeper:service:image_keeper", monkeypatch)).sees_all is True
