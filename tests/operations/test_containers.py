"""`Dockerfile` and `docker-compose.yml`: what they run and set is what the program has."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator

import pytest
import redis
import yaml

from resolver.cli import main
from resolver.settings import Settings, load_settings
from tests.conftest import started
from tests.operations.conftest import ROOT
from tests.support.process import ServerProcess, find_program

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
ROLES = ("gateway", "indexer")


PASSWORD = "0123abcd"


def interpolated(text: str) -> str:
    """A value as Compose reads it, with the required variables set to `PASSWORD`."""
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", r"\2", text)
    return re.sub(r"\$\{(\w+):\?[^}]*\}", PASSWORD, text).replace("$$", "$")


def memory_bytes(text: str) -> int:
    """A size as Compose and Redis write it."""
    number, unit = re.fullmatch(r"(\d+)([mg])b?", text).groups()  # type: ignore[union-attr]
    return int(number) << {"m": 20, "g": 30}[unit]


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
            monkeypatch.setenv(name, interpolated(value))
    settings = load_settings()
    assert (settings.role, settings.redis_url) == (role, f"redis://:{PASSWORD}@redis:6379/0")
    (port,) = SERVICES["gateway"]["ports"]
    assert port.endswith(f":{settings.port}")
    assert f"EXPOSE {settings.port}" in DOCKERFILE


@pytest.mark.parametrize("role", ROLES)
def test_a_container_is_ended_later_than_the_program_ends_itself(role: str) -> None:
    grace = float(SERVICES[role]["stop_grace_period"].removesuffix("s"))
    assert grace >= Settings.model_fields["shutdown_timeout"].default + 5


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_limits(service: str) -> None:
    """One that leaks memory, processes or log lines costs itself, not its host."""
    settings = SERVICES[service]
    assert memory_bytes(interpolated(settings["mem_limit"])) <= 1 << 30
    assert settings["pids_limit"] <= 1024
    assert settings["logging"]["driver"] == "json-file"
    assert {"max-size", "max-file"} <= settings["logging"]["options"].keys()


def test_secrets_are_asked_for() -> None:
    """None has a default, and none is an argument, which everybody on the host can read."""
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    uses = re.findall(r"\$\{(\w*(?:PASSWORD|TOKENS)\w*)([^}]*)\}", text)
    assert {name for name, _ in uses} == {"REDIS_PASSWORD", "RESOLVER_ADMIN_TOKENS"}
    assert all(rest.startswith(":?") for _, rest in uses)
    assert "${REDIS_PASSWORD" not in json.dumps(SERVICES["redis"]["command"])


class ComposeRedis(ServerProcess):
    """The Redis of docker-compose.yml, on a port of this host."""

    name = "redis-server"

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "REDISCLI_AUTH": PASSWORD}

    def command(self) -> list[str]:
        find_program("redis-server", "redis-server")
        *shell, script = map(interpolated, SERVICES["redis"]["command"])
        here = f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\n"
        return [*shell, f"{script.strip().removesuffix('END')}{here}END\n"]

    def is_ready(self) -> bool:
        with redis.Redis(port=self.port, password=PASSWORD) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


@pytest.fixture
def compose_redis() -> Iterator[ComposeRedis]:
    server = started(ComposeRedis())
    yield server
    server.close()


@pytest.mark.redis
def test_redis_asks_for_the_password_and_drops_nothing(compose_redis: ComposeRedis) -> None:
    with redis.Redis(port=compose_redis.port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    with redis.Redis(port=compose_redis.port, password=PASSWORD, decode_responses=True) as client:
        settings = client.config_get("maxmemory*", "appendonly")
    assert (settings["maxmemory-policy"], settings["appendonly"]) == ("noeviction", "yes")
    limit = memory_bytes(interpolated(SERVICES["redis"]["mem_limit"]))
    assert int(settings["maxmemory"]) == limit // 2


@pytest.mark.redis
def test_redis_is_healthy_with_its_password_only(compose_redis: ComposeRedis) -> None:
    _, check = SERVICES["redis"]["healthcheck"]["test"]
    check = check.replace("redis-cli", f"redis-cli -p {compose_redis.port}")
    for password, is_healthy in ((PASSWORD, True), ("another", False)):
        environ = {**os.environ, "REDISCLI_AUTH": password}
        done = subprocess.run(["sh", "-c", check], env=environ, check=False)
        assert (done.returncode == 0) is is_healthy
