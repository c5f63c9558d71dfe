"""The locations file whose content is registered at start."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest

from resolver.errors import SettingsError
from resolver.models import State
from resolver.registry.yaml_file import MAX_FILE_BYTES, read_locations
from resolver.services import open_services
from resolver.settings import Settings

GOOD = """
locations:
  one: {url: "http://one.example/", region: r, auth: {token_env: TOKEN}}
  two:
    url: https://two.example
    state: draining
"""


def written(directory: Path, text: str | bytes) -> str:
    file = directory / "locations.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(file)


def test_a_locations_file_is_read(tmp_path: Path) -> None:
    read = read_locations(written(tmp_path, GOOD))
    assert list(read) == ["one", "two"]
    assert read["two"] == {"url": "https://two.example", "state": "draining"}


def test_a_file_without_locations_is_accepted(tmp_path: Path) -> None:
    assert read_locations(written(tmp_path, "locations: {}")) == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "`locations:`"),
        ("- one", "`locations:`"),
        ("text", "`locations:`"),
        ("locations:", "`locations:`"),
        ("locations: [one]", "`locations:`"),
        ("locations: {}\nlocation: {}", "`locations:`"),
        ("places: {}", "`locations:`"),
        ("locations: {one: http://one.example}", "'one' must have fields"),
        ("locations: {one: }", "'one' must have fields"),
        ("locations: {one: {region: r}}", "one: `url` is missing"),
        ("locations:\n  one:\n    url\n    region: r\n", "the line before lacks its ':'"),
        ("locations: {no: {url: 'http://one.example'}}", "in YAML, quote names such as no"),
        (
            "locations: {one: {url: http://o.example, weigth: 1}}",
            "one: unknown field weigth (did you mean 'weight'?)",
        ),
        ("locations: {one: {url: http://o.example, weight: x}}", "one: `weight` must be"),
        ("locations: {One: {url: http://o.example}}", "'One' is not a location name"),
        (
            "locations:\n  one: {url: http://a}\n  one: {url: http://b}",
            "line 3: 'one' is given twice",
        ),
        (
            "locations:\n  one:\n    url: http://a\n    url: http://b",
            "line 4: 'url' is given twice",
        ),
        ("locations: {one: {url: http://a", "line 1"),
        ("locations:\n\t- x", "line 2"),
        ("locations: !!python/object/apply:os.system ['true']", "line 1"),
        (b"\xff\xfe\x00", "not YAML text"),
        (b"locations: {one: {url: \xe9}}", "not YAML text"),
        ("locations: {2026-99-99: {url: http://a}}", "not YAML text"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str | bytes, why: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SettingsError, match=re.escape(why)) as caught:
        read_locations(path)
    assert path in caught.value.detail, "it names the file"


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        read_locations(str(tmp_path / "none.yaml"))


def test_a_file_that_is_too_long_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="longer than"):
        read_locations(written(tmp_path, b"#" * (MAX_FILE_BYTES + 1)))


def test_a_process_waits_for_no_pipe(tmp_path: Path) -> None:
    """A gateway reads the file again on SIGHUP, and would answer nobody meanwhile."""
    pipe = tmp_path / "locations.yaml"
    os.mkfifo(pipe)
    with pytest.raises(SettingsError, match="it is not a regular file"):
        read_locations(str(pipe))
    writer = threading.Thread(target=pipe.write_text, args=(GOOD,))
    writer.start()
    assert read_locations(str(pipe), may_be_pipe=True)
    writer.join()


async def test_registering_changes_only_the_given_fields() -> None:
    async with open_services(Settings()) as services:
        registry = services.registry
        await registry.put("two", {"url": "https://two.example", "weight": 9})
        await registry.put("three", {"url": "https://three.example"})
        before = (await services.index.records.load()).records["two"].location
        listed = {
            "one": {"url": "http://one.example", "region": "r"},
            "two": {"url": "https://two.example", "state": "draining"},
        }
        for _ in range(2):  # a restart registers again
            await registry.register(listed)
        records = (await services.index.records.load()).records
        assert set(records) == {"one", "two", "three"}
        two = records["two"].location
        assert (two.weight, two.state, two.number) == (9, State.DRAINING, before.number)


async def test_the_error_names_a_location_that_is_not_allowed() -> None:
    async with open_services(Settings(allowed_hosts=("*.example",))) as services:
        with pytest.raises(SettingsError, match=r"location one: .*RESOLVER_ALLOWED_HOSTS"):
            await services.registry.register({"one": {"url": "http://10.0.0.1"}})
