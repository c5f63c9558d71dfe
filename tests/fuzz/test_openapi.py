"""schemathesis with all checks against ``/openapi.json`` of a running gateway.

``schemathesis.toml`` has the exceptions with their reasons. By hand, against any gateway::

    HOOKS=tests/fuzz/hooks.py schemathesis --config-file tests/fuzz/schemathesis.toml \\
        run http://127.0.0.1:9393/openapi.json -H "Authorization: Bearer $RESOLVER_TOKEN"
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from resolver.gateway.api.status import openapi_document
from resolver.standin import StandIn
from tests.cli.test_serve import serve
from tests.fuzz.conftest import count_examples, factor
from tests.gateway.conftest import TOKEN

HERE = Path(__file__).parent
BOTH = "5ca1ab1e-0000-4000-8000-00000000c0de"
V1_ONLY = "5ca1ab1e-0000-4000-8000-000000000001"


async def schemathesis(url: str, *options: str, count: int, home: Path) -> tuple[int, str]:
    """(exit status, report) of a run with ``count`` examples for each operation."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        "--config-file",
        str(HERE / "schemathesis.toml"),
        "run",
        f"{url}/openapi.json",
        f"--max-examples={count * factor()}",
        *([] if factor() > 1 else ["--generation-deterministic"]),
        "--continue-on-failure",
        *options,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "HOOKS": str(HERE / "hooks.py"), "NO_COLOR": "1", "COLUMNS": "200"},
        cwd=home,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


# Whether an index acts alike on each backend, tests/contract shows.
@pytest.mark.parametrize(
    "index_url",
    [
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("memory:", marks=pytest.mark.long),
    ],
    indirect=True,
)
async def test_the_gateway_conforms_to_openapi_json_for_an_admin(
    index_url: str, tmp_path: Path
) -> None:
    await check_openapi(index_url, tmp_path, token=True)


async def test_the_gateway_conforms_to_openapi_json_without_a_token(tmp_path: Path) -> None:
    await check_openapi("memory:", tmp_path, token=False)


def test_parameters_of_paths_are_whole_segments() -> None:
    """Generated clients send a slash in a parameter as %2F, so that `{id}{rest}` led nowhere."""
    segments = {segment for path in openapi_document()["paths"] for segment in path.split("/")}
    assert [s for s in segments if "{" in s and not re.fullmatch(r"{\w+}", s)] == []


async def check_openapi(index_url: str, home: Path, *, token: bool) -> None:
    """Fails with the report of schemathesis or with the log of the gateway."""
    one, two = StandIn(), StandIn(v1=True, v2=False, prefix="/image")
    for server in (one, two):
        server.add(id=BOTH)
    two.add(id=V1_ONLY)
    async with (
        one,
        two,
        serve(
            *("--location", f"one={one.url}", "--location", f"two={two.url}"),
            RESOLVER_REDIS_URL=index_url,
            RESOLVER_ADMIN_TOKENS=TOKEN,
            RESOLVER_ALLOWED_HOSTS="127.0.0.1",  # no request leaves this host
        ) as server,
    ):
        bearer = ["-H", f"Authorization: Bearer {TOKEN}"] if token else []
        count = 6 if token else 2
        status, report = await schemathesis(server.url, *bearer, count=count, home=home)
        assert server.process.returncode is None, server.output
    generated = re.search(r"(\d+) generated", report)
    count_examples(
        f"schemathesis, {'with' if token else 'without'} a token",
        int(generated[1]) if generated else 0,
    )
    assert status == 0, report
    assert generated, report
    assert int(generated[1]) > 500, report  # the operations were reached
    assert "Traceback" not in server.output
    assert '"level": "error"' not in server.output
