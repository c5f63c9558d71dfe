"""`Dockerfile` and `docker-compose.yml`: what they run and set is what the program has."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from resolver.cli import main
from resolver.settings import Settings, load_settings
from tests.operations.conftest import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
ROLES = ("gateway", "indexer")


def dockerfile_command(instruction: str) -> list[str]:
    """The JSON array of an instruction."""
    (text,) = re.findall(rf"^ *{instruction} (\[.*\])$", DOCKERFILE, re.MULTILINE)
    return list(json.loads(text))


@pytest.mark.parametrize("role", ROLES)
def test_the_health_check_is_a_command_of_the_program(role: str) -> None:
    program, *arguments = SERVICES[role]["healthcheck"]["test"][1:]
    assert [program] == dockerfile_command("ENTRYPOINT")
    assert [program, *arguments] in [
        json.loads(text) for text in re.findall(r"CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    ]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0


@pytest.mark.parametrize("role", ROLES)
def test_a_container_has_settings_that_load(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES[role]["environment"].items():
        if name == "RESOLVER_ADMIN_TOKENS":
            monkeypatch.setenv(name, "ops=a-secret")
        elif value is not None:
            monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.role, settings.redis_url) == (role, "redis://redis:6379/0")
    (port,) = SERVICES["gateway"]["ports"]
    assert port.endswith(f":{settings.port}")
    assert f"EXPOSE {settings.port}" in DOCKERFILE


@pytest.mark.parametrize("role", ROLES)
def test_a_container_is_ended_later_than_the_program_ends_itself(role: str) -> None:
    grace = float(SERVICES[role]["stop_grace_period"].removesuffix("s"))
    assert grace >= Settings.model_fields["shutdown_timeout"].default + 5
