"""A Metalink of the gateway, and aria2c that reads one image from two real Glance servers."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.glance.gateway import Gateway, clean_env
from tests.glance.pair import Pair, image_at_both
from tests.support.glance import ADMIN_TOKEN, Answer
from tests.support.requirements import cannot_run
from tests.support.wait import wait_until_blocking

pytestmark = pytest.mark.glance

DATA = os.urandom(4 << 20).hex().encode()
CHECKSUM_ERROR = 32
"""Exit status of aria2c."""

METALINK = {"Accept": "application/metalink4+xml"}


@pytest.fixture
def image_id(glance_pair: Pair) -> Iterator[str]:
    """An image of 8 MiB that both servers have."""
    with image_at_both(glance_pair, data=DATA) as image_id:
        yield image_id


def metalink(gateway: Gateway, image_id: str) -> Answer:
    for name in gateway.locations:  # whichever answered first, both are known to have it
        claimed = gateway.admin(f"/locations/{name}/images/{image_id}", "PUT")
        assert claimed.status in (201, 204), claimed

    def is_pending() -> bool:
        owners = gateway.get(f"/resolve/{image_id}").json()["owners"]
        return "pending" in [owner["status"] for owner in owners]

    if is_pending():  # a poll saw it before its bytes had arrived
        for name in gateway.locations:
            assert gateway.admin(f"/locations/{name}/sweep", "POST").status in (200, 202)
        wait_until_blocking(lambda: not is_pending(), message="the sweep sees its bytes")
    return gateway.get(f"/resolve/{image_id}", METALINK)


def test_a_metalink_has_urls_size_and_hashes(
    gateway: Gateway, glance_pair: Pair, image_id: str
) -> None:
    answer = metalink(gateway, image_id)
    assert answer.status == 200, answer
    text = answer.body.decode()
    urls = set(re.findall("<url[^>]*>([^<]*)</url>", text))
    assert urls == {f"{s.url}/v2/images/{image_id}/file" for s in glance_pair.servers.values()}
    assert f"<size>{len(DATA)}</size>" in text
    assert f'<hash type="sha-512">{hashlib.sha512(DATA).hexdigest()}</hash>' in text


def aria2c(directory: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [
        *("aria2c", "--no-conf", "--split=2", "--min-split-size=1M", "--follow-metalink=mem"),
        *("--max-connection-per-server=2", f"--dir={directory}"),
        f"--header=X-Auth-Token: {ADMIN_TOKEN}",
    ]
    return subprocess.run(
        [*command, *arguments], env=clean_env(directory), capture_output=True, check=False
    )


def test_aria2c_reads_from_both_and_verifies(
    gateway: Gateway, glance_pair: Pair, image_id: str, tmp_path: Path
) -> None:
    """It asks for a Metalink by itself and splits the file among the servers."""
    if shutil.which("aria2c") is None:
        cannot_run("needs aria2c")
    text = metalink(gateway, image_id).body.decode()
    ran = aria2c(tmp_path, f"{gateway.url}/resolve/{image_id}")
    assert ran.returncode == 0, ran.stdout.decode()
    assert (tmp_path / image_id).read_bytes() == DATA
    for name, server in glance_pair.servers.items():
        reads = [line for line in server.accesses() if f"{image_id}/file" in line]
        assert any(line.startswith("GET ") for line in reads), f"{name}: {reads}"
    (tmp_path / image_id).unlink()
    changed = tmp_path / "changed.meta4"
    good = hashlib.sha512(DATA).hexdigest()
    assert good in text
    changed.write_text(text.replace(good, hashlib.sha512(b"other").hexdigest()))
    ran = aria2c(tmp_path, f"--metalink-file={changed}")
    assert ran.returncode == CHECKSUM_ERROR, ran.stdout.decode()
