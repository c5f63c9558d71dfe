"""Which requests RESOLVER_ACCESS_LOG has logged."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from resolver.gateway.access_log import AccessLog, mask_secrets
from resolver.settings import Settings

REQUESTS = (
    ("/v2/images", 307),
    ("/readyz", 200),
    ("/readyz?verbose", 200),
    ("/v2/images", 307),
    ("/readyz", 503),
    ("/livez", 200),
    ("/readyz", 503),
    ("/v2/images", 503),
    ("/v2/images", 503),
    ("/readyz", 200),
    ("/readyz", 200),
    ("/readyz", 503),
)

CHANGES = [("/readyz", 503), ("/readyz", 200), ("/readyz", 503)]
OF_CLIENTS = [row for row in REQUESTS if row[0] == "/v2/images"]


def logged(level: str) -> list[tuple[str, int]]:
    access_log = AccessLog(level)
    with capture_logs() as lines:
        for path, status in REQUESTS:
            access_log.write("req-1", "GET", path, status, 0.1, None)
    return [(line["path"], line["status"]) for line in lines]


def test_by_default_checks_are_logged_where_their_status_changes() -> None:
    lines = logged(Settings.model_fields["access_log"].default)
    assert [row for row in lines if row in CHANGES] == CHANGES
    assert [row for row in lines if row not in CHANGES] == OF_CLIENTS


def test_of_errors_only_those_are_logged() -> None:
    """Also the second outage, after a success that is not logged."""
    failed = ("/v2/images", 503)
    assert logged("errors") == [("/readyz", 503), failed, failed, ("/readyz", 503)]


@pytest.mark.parametrize(("level", "expected"), [("all", [*REQUESTS]), ("off", [])])
def test_all_and_off(level: str, expected: list[tuple[str, int]]) -> None:
    assert logged(level) == expected


@pytest.mark.parametrize(
    "query",
    [
        *(f"{name}=SECRET" for name in ("token", "X-Auth-Token", "pwd", "passphrase", "jwt")),
        *(f"a=b&{name}=SECRET;c=d" for name in ("bearer", "session", "otp", "Temp_Url_Sig")),
        *("to%6ben=SECRET", "tok%65n%3dSECRET", "%74oken=SECRET"),
        *("u=https://me:SECRET@b.example", "u=me%3aSECRET%40b.example"),
    ],
)
def test_secrets_in_a_query_are_masked(query: str) -> None:
    assert "SECRET" not in mask_secrets(f"/v2/images?{query}")


@pytest.mark.parametrize("query", ["name=a%20b", "limit=2&marker=x", "owner=me@b.example", "a"])
def test_the_rest_of_a_query_is_logged(query: str) -> None:
    assert mask_secrets(f"/v2/images?{query}") == f"/v2/images?{query}"
