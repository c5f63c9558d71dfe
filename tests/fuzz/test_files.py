"""Files and environments of operators: accepted, or refused with one clear line."""

from __future__ import annotations

import json
import os
import string
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from resolver.errors import Forbidden, LocationUnavailable, SettingsError
from resolver.gateway.tokens import Tokens
from resolver.glance.cloud_config import CloudRef
from resolver.glance.keystone import authenticate
from resolver.index import open_index
from resolver.registry import FreshnessPolicy, Registry, TableKeeper
from resolver.registry.yaml_file import read_locations
from resolver.setting_names import PREFIX
from resolver.settings import Settings, load_settings
from tests.fuzz.conftest import PATIENT, count_examples, examples
from tests.fuzz.test_ids import JSON


def assert_clear(message: str) -> None:
    """Fails unless a message is one readable line, without internals of a library."""
    assert message
    assert message.isprintable(), message
    assert len(message) < 2000, message
    for word in ("Traceback", "object at 0x", "NoneType", "has no attribute"):
        assert word not in message, message


YAML = st.one_of(
    st.text(max_size=80),
    st.binary(max_size=80),
    JSON.map(json.dumps),
    JSON.map(yaml.safe_dump),
    st.lists(
        st.sampled_from(
            [
                "locations:",
                "clouds:",
                "  one:",
                "    url: https://one.example",
                "  - a",
                "\t",
                "&a",
                "*a",
                "<<: *a",
                "!!python/object:os.system",
                "? {a: b}",
                "[",
                "{",
                "}",
                "'",
                '"',
                "|",
                "    auth: {auth_url: x}",
                "2026-99-99: 1",
                "%YAML 9.9",
                "---",
                "...",
                "a: 1:2:3",
                "!!x",
                "\x00",
                "\ud800",
                "    priority: 1_000",
                "0o9: .nan",
                "  true: {}",
                "!!binary x",
                "!!timestamp x",
                "!!int x",
                "!!float x",
                "!!bool x",
                "!!set {[a]}",
                "!!omap [a]",
            ]
        ),
        max_size=8,
    ).map("\n".join),
    st.sampled_from(
        ["[" * 3000, "{a: " * 3000, "- " * 3000, "a: &a [*a]", "1" * 9999, "? " * 3000]
    ),
)


def write_file(path: Path, content: str | bytes) -> str:
    path.write_bytes(
        content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    )
    return str(path)


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "url": JSON
        | st.sampled_from(["https://one.example", "https://one.example:99999/é", "http:"]),
        "region": JSON,
        "priority": JSON,
        "weight": JSON,
        "api": JSON | st.sampled_from(["v1", "auto"]),
        "state": JSON | st.just("draining"),
        "auth": JSON | st.dictionaries(st.sampled_from(["token_env", "cloud"]), JSON),
        "notifications": JSON | st.dictionaries(st.sampled_from(["url_env", "topic"]), JSON),
    },
)
LOCATIONS = st.dictionaries(
    st.sampled_from(["one", "two", "One", "", "a" * 64])
    | JSON.filter(lambda k: isinstance(k, str)),
    FIELDS | JSON,
    max_size=3,
).map(lambda locations: yaml.safe_dump({"locations": locations}, allow_unicode=True))


@examples(200)
@example("locations: {one: {url: 'https://one.example'}, one: {url: 'https://two.example'}}")
@example("locations: {? [a] : {url: x}}")
@example("2026-99-99: 1")
@given(LOCATIONS | LOCATIONS | YAML)
async def test_a_locations_file_is_registered_completely_or_refused_with_one_line(
    tmp_path: Path, content: str | bytes
) -> None:
    count_examples("files: locations")
    try:
        locations = read_locations(write_file(tmp_path / "locations.yaml", content))
    except SettingsError as error:
        assert_clear(error.detail)
        return
    async with open_index("memory:", bits=4, timeouts=PATIENT) as index:
        registry = Registry(index, TableKeeper(index, FreshnessPolicy(60)), Settings())
        try:
            await registry.register(locations)
        except SettingsError as error:
            assert_clear(error.detail)
        else:
            assert (await index.records.load()).records.keys() == locations.keys()


@examples(150)
@example("clouds: [")
@example("clouds: []")
@example("[]")
@example("clouds: {prod: }")
@example("clouds: {prod: []}")
@example("clouds: {prod: {auth: 5}}")
@example("clouds: {prod: {auth_type: nonsense}}")
@example("clouds: {prod: {profile: [x]}}")
@example("clouds: {prod: {auth: {auth_url: 'http://127.0.0.1:1'}, verify: [1]}}")
@given(
    YAML
    | st.builds(
        lambda auth, key, value: yaml.safe_dump({"clouds": {"prod": {"auth": auth, key: value}}}),
        st.just({"auth_url": "http://127.0.0.1:1/v3", "token": "x"}) | JSON,
        st.sampled_from(
            ["auth_type", "region_name", "regions", "verify", "cacert", "profile", "x"]
        ),
        JSON | st.sampled_from(["none", "token", "password", "v3token"]),
    )
)
def test_a_clouds_file_gives_credentials_or_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | bytes
) -> None:
    count_examples("files: clouds.yaml")
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", write_file(tmp_path / "clouds.yaml", content))
    monkeypatch.chdir(tmp_path)
    try:
        authenticate(CloudRef("prod"))
    except LocationUnavailable as error:
        assert_clear(error.detail)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("clouds:\n  prod: [\n", "line 3: expected"),
        ("a: b: c", "line 1: mapping values"),
        ("\x00", ""),
    ],
)
def test_the_error_for_an_invalid_clouds_file_names_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, line: str
) -> None:
    path = write_file(tmp_path / "clouds.yaml", content)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LocationUnavailable) as caught:
        authenticate(CloudRef("prod"))
    assert path in caught.value.detail
    assert line in caught.value.detail


TOKEN_LINE = st.one_of(
    st.sampled_from(
        ["", "# one", "ops=secret-1", "ops:ro=secret-2", "bare-token", "a=b", "=", ":ro="]
    ),
    st.text(max_size=20),
    st.binary(max_size=20),
)


@examples(300)
@example([b"ops=secret-1", b"\xff"])
@example([b"#" + b"x" * 1024 * 1024, b"ops=secret-1"])
@given(st.lists(TOKEN_LINE, max_size=5))
def test_each_line_of_a_tokens_file_counts_by_itself(
    tmp_path: Path, lines: list[str | bytes]
) -> None:
    count_examples("files: tokens")
    content = b"\n".join(
        line if isinstance(line, bytes) else line.encode("utf-8", "surrogatepass") for line in lines
    )
    path = write_file(tmp_path / "tokens", content)
    tokens = Tokens(Settings(admin_tokens="root=secret-0", admin_tokens_file=path))
    try:
        tokens.check()
    except SettingsError as error:
        assert_clear(error.detail)
        with pytest.raises(Forbidden):
            tokens.find(b"secret-1")
    else:
        lines_read = content.decode("ascii", "replace").splitlines()
        accepted = {line.strip() for line in lines_read}
        found = tokens.find(b"secret-1")
        assert (found is not None) == ("ops=secret-1" in accepted)
    root = tokens.find(b"secret-0")  # the tokens of the settings stay valid
    assert root is not None
    assert root.name == "root"


NAMES = sorted(Settings.model_fields)
VALUE = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
    st.text(string.printable, max_size=20),
    st.sampled_from(
        [
            "0",
            "-1",
            "nan",
            "inf",
            "1e999",
            "1" * 5000,
            "true",
            "[]",
            "{}",
            "memory:",
            "redis://",
            "redis://h:x",
            "redis://[",
            "redis://h/x",
            "redis+sentinel://",
            "redis+sentinel://h:x/s",
            "redis+cluster://h:99999",
            "redis+sentinel://h/s/x",
            "unix://",
            "redis://h?db=x",
            "redis://h?socket_timeout=x",
            "redis://:p%zz@h",
            "rediss://h?ssl_cert_reqs=x",
            "://",
            "http:",
            "http://[",
            "http://h:x",
            "10.0.0.0/99",
            "*.",
            ":,:",
            "a=b",
            "\udcff",
            "redis://h\udcff",
        ]
    ),
)


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@examples(400)
@example({"redis_url": "redis+sentinel://h/s/x"}, None)
@example({"redis_url": "redis://h?socket_timeout=x"}, None)
@example({"redis_url": "1" * 5000}, None)
@example({}, "a = [[[[" + "[" * 5000)
@example({}, b"\xff")
@given(
    st.dictionaries(st.sampled_from(NAMES) | st.just("redis_url"), VALUE, max_size=3),
    st.none()
    | st.text(max_size=60)
    | st.binary(max_size=60)
    | st.builds(lambda name, value: f"{name} = {json.dumps(value)}", st.sampled_from(NAMES), JSON),
)
async def test_settings_are_accepted_or_refused_with_one_clear_line(
    tmp_path: Path, values: dict[str, str], toml: str | bytes | None
) -> None:
    count_examples("settings")
    named = {PREFIX + name.upper(): value for name, value in values.items()}
    if toml is not None:
        named["RESOLVER_CONFIG"] = write_file(tmp_path / "resolver.toml", toml)
    with environment(named):
        try:
            settings = load_settings()
            async with open_index(settings.redis_url, prefix=settings.prefix, create=False):
                pass
        except SettingsError as error:
            assert_clear(error.detail)
        else:
            shown: Any = json.dumps(settings.masked())
            assert shown.isascii()
