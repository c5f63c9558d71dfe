"""Settings: their sources, and the messages for wrong ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from resolver.admin_tokens import Role, parse_token
from resolver.errors import SettingsError
from resolver.masking import mask_url
from resolver.settings import Settings, load_settings

TOKEN = "correct-horse"


def toml(directory: Path, patch: pytest.MonkeyPatch, text: str) -> str:
    file = directory / "resolver.toml"
    file.write_text(text)
    patch.setenv("RESOLVER_CONFIG", str(file))
    return str(file)


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.redis_url, settings.prefix, settings.port) == ("memory:", "glr:", 9393)
    assert settings.index_bits is None
    assert settings.admin_tokens == ()


def test_environment_over_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml(tmp_path, monkeypatch, 'port = 1111\nregion = "file"\nbulk_limit = 5\n')
    monkeypatch.setenv("RESOLVER_PORT", "2222")
    monkeypatch.setenv("resolver_region", "environment")
    settings = load_settings({"port": None, "role": "gateway"})
    assert (settings.port, settings.region, settings.bulk_limit) == (2222, "environment", 5)
    assert settings.role == "gateway"
    assert load_settings({"port": 3333}).port == 3333, "the command line comes first"


@pytest.mark.parametrize("name", ["RESOLVER_PROT", "resolver_prot", "RESOLVER_"])
def test_an_unknown_name_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=f"unknown setting {name}"):
        load_settings()


def test_variables_of_the_operator_commands_are_not_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = load_settings()
    monkeypatch.setenv("RESOLVER_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("RESOLVER_TOKEN", "x")
    monkeypatch.setenv("RESOLVERS", "x")
    assert load_settings() == expected


MADE_BY_PLATFORMS = {
    "RESOLVER_PORT": "tcp://172.30.9.14:9393",
    "RESOLVER_PORT_9393_TCP": "tcp://172.30.9.14:9393",
    "RESOLVER_PORT_9393_TCP_ADDR": "172.30.9.14",
    "RESOLVER_PORT_9393_TCP_PORT": "9393",
    "RESOLVER_PORT_9393_TCP_PROTO": "tcp",
    "RESOLVER_SERVICE_HOST": "172.30.9.14",
    "RESOLVER_SERVICE_PORT": "9393",
    "RESOLVER_SERVICE_PORT_METRICS_V2": "9394",
    "RESOLVER_MY_CACHE_PORT": "udp://[fd00::9]:6379",
    "RESOLVER_MY_CACHE_PORT_6379_UDP_ADDR": "fd00::9",
    "RESOLVER_MY_CACHE_SERVICE_HOST": "fd00::9",
    "RESOLVER_NAME": "/web/resolver",
    "RESOLVER_ENV_PATH": "/usr/bin",
}
"""Of Services called ``resolver`` and ``resolver-my-cache``, and of a container link."""


def test_variables_of_container_platforms_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_settings()
    for name, value in MADE_BY_PLATFORMS.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == expected


def test_a_platforms_port_variable_overrides_neither_file_nor_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml(tmp_path, monkeypatch, "port = 4711\n")
    monkeypatch.setenv("RESOLVER_PORT", "tcp://172.30.9.14:9393")
    assert load_settings().port == 4711
    assert load_settings({"port": 4712}).port == 4712
    monkeypatch.setenv("RESOLVER_PORT", "4713")
    assert load_settings().port == 4713, "a number is the setting"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RESOLVER_SERVICE", "resolver"),
        ("RESOLVER_SERVICE_HOSTS", "172.30.9.14"),
        ("RESOLVER_PORTS", "tcp://172.30.9.14:9393"),
        ("RESOLVER_GATEWAY_PORT", "9393"),
        ("RESOLVER_PORT_TCP", "9393"),
        ("RESOLVER_NAME", "one"),
    ],
)
def test_a_variable_that_no_platform_sets_stays_an_error(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"unknown setting {name}"):
        load_settings()


@pytest.mark.parametrize("value", ["tcp://", "http://172.30.9.14:9393", "tcp://host/x", "x"])
def test_a_malformed_port_stays_an_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("RESOLVER_PORT", value)
    with pytest.raises(SettingsError, match="RESOLVER_PORT: "):
        load_settings()


def test_an_unknown_name_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = toml(tmp_path, monkeypatch, "prot = 1\n")
    with pytest.raises(SettingsError, match=rf"'prot' in {re.escape(file)} \(did you mean 'port'"):
        load_settings()


def test_a_file_that_is_not_toml_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = toml(tmp_path, monkeypatch, "port = \n")
    with pytest.raises(SettingsError, match=re.escape(file)):
        load_settings()


def test_a_missing_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESOLVER_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(SettingsError, match=r"none\.toml, which is not a file"):
        load_settings()


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESOLVER_ALLOWED_HOSTS", " *.example.org, 10.0.0.0/8,,one,")
    monkeypatch.setenv("RESOLVER_ADMIN_TOKENS", f"{TOKEN},ops=secret-two")
    settings = load_settings()
    assert settings.allowed_hosts == ("*.example.org", "10.0.0.0/8", "one")
    assert [t.get_secret_value() for t in settings.admin_tokens] == [TOKEN, "ops=secret-two"]


def test_lists_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml(tmp_path, monkeypatch, f'allowed_hosts = ["one", "two"]\nadmin_tokens = "{TOKEN}"\n')
    settings = load_settings()
    assert settings.allowed_hosts == ("one", "two")
    assert len(settings.admin_tokens) == 1


def test_secrets_are_masked() -> None:
    settings = Settings(
        admin_tokens=(TOKEN, "ops=secret-two"),
        redis_url="redis://me:s3cret@one.example/0",
    )
    masked = settings.masked()
    assert masked["admin_tokens"] == ["admin=***", "ops=***"]
    assert masked["redis_url"] == "redis://me:***@one.example/0"
    for text in (str(masked), repr(settings), str(settings)):
        assert TOKEN not in text
        assert "secret-two" not in text
    assert set(masked) == set(Settings.model_fields)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("memory:", "memory:"),
        ("redis://one.example:6379/0", "redis://one.example:6379/0"),
        ("redis://:s3cret@h", "redis://:***@h"),
        ("rediss://me:s3:c@ret@h/1", "rediss://me:***@h/1"),
        ("redis+cluster://me:s3cret@h1:1,h2:2", "redis+cluster://me:***@h1:1,h2:2"),
        ("redis://h/0?password=s3cret&db=1", "redis://h/0?password=***&db=1"),
        (
            "redis+sentinel://h1,h2/one?sentinel_username=me&sentinel_password=s3cret",
            "redis+sentinel://h1,h2/one?sentinel_username=me&sentinel_password=***",
        ),
        ("unix:///run/redis.sock?db=1&password=s3cret", "unix:///run/redis.sock?db=1&password=***"),
    ],
)
def test_masked_urls(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_tokens_have_a_name() -> None:
    assert parse_token("bare-token") == ("admin", "bare-token", Role.ADMIN)
    assert parse_token("ops=token=") == ("ops", "token=", Role.ADMIN)
    assert parse_token("token=") == ("admin", "token=", Role.ADMIN)
    assert parse_token("board:ro=token=") == ("board", "token=", Role.RO)
    assert parse_token("long:rosy-token") == ("admin", "long:rosy-token", Role.ADMIN)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"port": "x"}, "RESOLVER_PORT: "),
        ({"port": 65536}, "RESOLVER_PORT: "),
        ({"role": "both"}, "RESOLVER_ROLE: "),
        ({"index_bits": 3}, "RESOLVER_INDEX_BITS: "),
        ({"index_bits": 29}, "RESOLVER_INDEX_BITS: "),
        ({"sweep_interval": 0}, "RESOLVER_SWEEP_INTERVAL: "),
        ({"sweep_interval": "nan"}, "RESOLVER_SWEEP_INTERVAL: "),
        ({"shrink_guard": 1.1}, "RESOLVER_SHRINK_GUARD: "),
        ({"bulk_limit": 0}, "RESOLVER_BULK_LIMIT: "),
        ({"admin_tokens": "short"}, "RESOLVER_ADMIN_TOKENS: token 1 must be"),
        ({"admin_tokens": f"{TOKEN},two words here"}, "RESOLVER_ADMIN_TOKENS: token 2"),
        ({"admin_tokens": f"={TOKEN}"}, "RESOLVER_ADMIN_TOKENS: token 1"),
        ({"admin_tokens": "p\u00e4ssword"}, "RESOLVER_ADMIN_TOKENS: token 1"),
        # A role whose token is missing or follows the wrong sign is no admin's token.
        ({"admin_tokens": "ops:ro"}, "RESOLVER_ADMIN_TOKENS: token 1"),
        ({"admin_tokens": "ops:state="}, "RESOLVER_ADMIN_TOKENS: token 1"),
        ({"admin_tokens": f"ops:ro:{TOKEN}"}, "RESOLVER_ADMIN_TOKENS: token 1"),
        ({"admin_tokens": f"ops:ro;{TOKEN}"}, "RESOLVER_ADMIN_TOKENS: token 1"),
        ({"admin_tokens": "ops:viewer"}, "RESOLVER_ADMIN_TOKENS: token 1"),
        ({"admin_tokens": f"TOKENS=ops:ro={TOKEN}"}, "RESOLVER_ADMIN_TOKENS: token 1"),
        ({"allowed_hosts": "*"}, "RESOLVER_ALLOWED_HOSTS: '*'"),
        ({"allowed_hosts": "a.*.example"}, "RESOLVER_ALLOWED_HOSTS: 'a.*.example'"),
        ({"allowed_hosts": "*."}, "RESOLVER_ALLOWED_HOSTS: '*.'"),
        ({"allowed_hosts": "10.0.0.0/99"}, "RESOLVER_ALLOWED_HOSTS: '10.0.0.0/99'"),
        ({"trusted_proxies": "::ffff:10.0.0.0/104"}, "is IPv4 written as IPv6: write 10.0.0.0/8"),
        ({"public_url": "images.example"}, "RESOLVER_PUBLIC_URL: it must be"),
        ({"public_url": "https://me:s3cret@images.example"}, "RESOLVER_PUBLIC_URL: it must be"),
        ({"prefix": ""}, "RESOLVER_PREFIX: it must be"),
        ({"prefix": "{x}:"}, "RESOLVER_PREFIX: it must be"),
        ({"prefix": "a b"}, "RESOLVER_PREFIX: it must be"),
        ({"log_level": "loud"}, "RESOLVER_LOG_LEVEL: "),
    ],
)
def test_bad_values_are_named(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], why: str
) -> None:
    for name, value in fields.items():
        monkeypatch.setenv(f"RESOLVER_{name.upper()}", str(value))
    with pytest.raises(SettingsError, match=re.escape(why)) as caught:
        load_settings()
    for text in ("horse", "two words", "p\u00e4ss"):
        assert text not in caught.value.detail, "a secret is shown"


@pytest.mark.parametrize(
    "name",
    ["trusted_proxies", "allowed_hosts", "secret_files", "domains", "prefix", "role", "port"],
)
def test_a_message_does_not_repeat_a_long_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"RESOLVER_{name.upper()}", "{" + "1" * 100_000 + "/")
    with pytest.raises(SettingsError, match=f"^RESOLVER_{name.upper()}: ") as refused:
        load_settings()
    assert len(refused.value.detail) < 1000


def test_all_wrong_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESOLVER_PORT", "x")
    monkeypatch.setenv("RESOLVER_ROLE", "y")
    with pytest.raises(SettingsError, match=r"RESOLVER_PORT: .*; RESOLVER_ROLE: "):
        load_settings()


def test_every_setting_is_described() -> None:
    assert [n for n, field in Settings.model_fields.items() if not field.description] == []


def test_redis_url_and_redis_url_file_exclude_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RESOLVER_REDIS_URL_FILE", "/run/secrets/redis")
    assert not load_settings().is_embedded
    monkeypatch.setenv("RESOLVER_REDIS_URL", "redis://one")
    with pytest.raises(SettingsError, match="RESOLVER_REDIS_URL_FILE: set only one"):
        load_settings()
