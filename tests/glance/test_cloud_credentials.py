"""Credentials of clouds.yaml, shared by all requests to locations."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import pytest

from resolver.errors import LocationUnavailable
from resolver.glance import CloudCredentials, CloudRef
from resolver.glance.keystone import AuthHeaders
from resolver.models import Location

PROD = CloudRef("prod")

HANGING_LOGIN = """
import asyncio, threading, time
from resolver.glance import CloudCredentials, CloudRef

begun = threading.Event()

def authenticate(name):
    print("login begins", flush=True)
    begun.set()
    time.sleep(60)

async def main():
    credentials = CloudCredentials(authenticate)
    login = asyncio.create_task(credentials.auth_headers(CloudRef("prod")))
    await asyncio.to_thread(begun.wait)
    login.cancel()
    credentials.close()

asyncio.run(main())
print("end of main", flush=True)
"""


class FakeKeystone:
    """Logs in without a Keystone."""

    def __init__(self) -> None:
        self.logins: list[str] = []
        self.failure = ""
        self.lifetime = 3600.0

    def __call__(self, cloud: CloudRef) -> AuthHeaders:
        name = cloud.name
        self.logins.append(name)
        if self.failure:
            raise LocationUnavailable(self.failure, code="no-credential")
        headers = {"X-Auth-Token": f"{name}-{len(self.logins)}"}
        return AuthHeaders(headers, ("admin",), valid_until=time.monotonic() + self.lifetime)


@pytest.fixture
def keystone() -> FakeKeystone:
    return FakeKeystone()


async def test_concurrent_callers_share_one_authentication(keystone: FakeKeystone) -> None:
    credentials = CloudCredentials(keystone)
    shared = await asyncio.gather(*(credentials.auth_headers(PROD) for _ in range(20)))
    assert len({id(headers) for headers in shared}) == 1
    assert keystone.logins == ["prod"]
    await credentials.auth_headers(CloudRef("other"))
    assert keystone.logins == ["prod", "other"]


async def test_a_credential_is_renewed_shortly_before_it_expires(keystone: FakeKeystone) -> None:
    credentials = CloudCredentials(keystone)
    keystone.lifetime = -1
    first = await credentials.auth_headers(PROD)
    assert await credentials.auth_headers(PROD) is not first


async def test_authentication_is_not_retried_at_once_after_a_failure(
    keystone: FakeKeystone,
) -> None:
    credentials = CloudCredentials(keystone, retry_seconds=3600)
    keystone.failure = "no such user"
    failures = []
    for _ in range(5):
        with pytest.raises(LocationUnavailable, match="no such user") as caught:
            await credentials.auth_headers(PROD)
        assert caught.value.problem_code == "no-credential"
        failures.append(caught.value)
    assert len(keystone.logins) == 1
    assert len({id(failure) for failure in failures}) == 5, "each task has its own traceback"


async def test_authentication_is_retried_later_after_a_failure(keystone: FakeKeystone) -> None:
    credentials = CloudCredentials(keystone, retry_seconds=0)
    keystone.failure = "no such user"
    with pytest.raises(LocationUnavailable, match="no such user"):
        await credentials.auth_headers(PROD)
    keystone.failure = ""
    assert (await credentials.auth_headers(PROD)).headers


async def test_a_refused_credential_is_renewed_once(keystone: FakeKeystone) -> None:
    credentials = CloudCredentials(keystone, retry_seconds=3600)
    first = await credentials.auth_headers(PROD)
    assert credentials.invalidate_if_new(PROD, first)
    second = await credentials.auth_headers(PROD)
    assert second is not first
    assert credentials.invalidate_if_new(PROD, first), "it has been replaced already"
    assert await credentials.auth_headers(PROD) is second
    assert not credentials.invalidate_if_new(PROD, second), "the server trusts no login of it"
    assert await credentials.auth_headers(PROD) is second


async def test_a_credential_that_is_refused_later_is_renewed_again(
    keystone: FakeKeystone,
) -> None:
    credentials = CloudCredentials(keystone, retry_seconds=0)
    for _ in range(2):
        headers = await credentials.auth_headers(PROD)
        assert credentials.invalidate_if_new(PROD, headers)
    assert keystone.logins == ["prod", "prod"]


async def test_close_ends_the_wait_for_a_login_and_refuses_others() -> None:
    begun, let_go = threading.Event(), threading.Event()

    def hanging(_: str) -> AuthHeaders:
        begun.set()
        let_go.wait(30)
        return AuthHeaders({})

    credentials = CloudCredentials(hanging)
    try:
        waiting = asyncio.create_task(credentials.auth_headers(PROD))
        assert await asyncio.to_thread(begun.wait, 10)
        credentials.close()
        async with asyncio.timeout(5):
            with pytest.raises(LocationUnavailable, match="stopping"):
                await waiting
            with pytest.raises(LocationUnavailable, match="stopping"):
                await credentials.auth_headers(CloudRef("other"))
    finally:
        let_go.set()


async def test_an_authentication_in_progress_does_not_delay_the_exit() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HANGING_LOGIN, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(30):  # of the 60 that the login takes
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert output.decode().splitlines() == ["login begins", "end of main"]
    assert process.returncode == 0


async def test_without_the_extra_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "openstack.config", None)
    with pytest.raises(LocationUnavailable, match=r"pip install '\.\[keystone\]'"):
        await CloudCredentials().auth_headers(PROD)


async def test_an_operator_who_has_repaired_a_credential_waits_for_no_retry(
    keystone: FakeKeystone,
) -> None:
    credentials = CloudCredentials(keystone, lambda _: None)
    location = Location(name="one", url="http://one.example", auth={"cloud": "prod"})
    other = Location(name="two", url="http://two.example", auth={"token_env": "GLANCE_X"})
    keystone.failure = "wrong password"
    with pytest.raises(LocationUnavailable, match="wrong password"):
        await credentials.auth_headers(PROD)
    keystone.failure = ""
    with pytest.raises(LocationUnavailable, match="wrong password"):
        await credentials.auth_headers(PROD)
    credentials.forget_failure(location)
    credentials.forget_failure(other)
    await credentials.auth_headers(PROD)
