"""A field of a location is declared once, in `resolver.models.Location`; everything else follows.

Documents, examples and command line options cannot be derived. A field that one of them lacks fails
here with the list of places where it must be added.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from resolver.cli.locations_command import locations
from resolver.gateway.api.status import openapi_document
from resolver.index import Index
from resolver.models import LOCATION_FIELDS, Location
from resolver.registry import FreshnessPolicy, Registry, TableKeeper
from resolver.registry.export_format import Head, Reader, Writer
from resolver.registry.presentation import fields_of
from resolver.registry.validation import parse_location
from resolver.settings import Settings

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "config" / "locations.example.yaml"
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

NOT_WRITTEN_BY_OPERATORS = {"name", "number", "created", "updated", "unknown"}
GENERAL_OPTIONS = {"--gateway", "--token"}
"""Options of every operator command, which describe no location."""

EXAMPLES = {name: spec.example for name, spec in LOCATION_FIELDS.items()}


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = openapi_document()["components"]["schemas"][name]
    return found


def field_tables(text: str) -> set[str]:
    """The names in the first column of a document's tables of fields."""
    names: set[str] = set()
    for table in re.findall(r"^\| field \|.*\n\|[-| ]+\n((?:\|.*\n)+)", text, re.MULTILINE):
        cells = re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)
        names |= {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    return names


def cli_options() -> set[str]:
    """The options of ``locations add`` and ``locations set`` that describe a location."""
    options = {
        option
        for command in ("add", "set")
        for parameter in locations.commands[command].params
        for option in parameter.opts
        if option.startswith("--")
    }
    return options - GENERAL_OPTIONS


def test_every_field_is_in_the_documents_the_examples_and_the_options() -> None:
    examples = yaml.safe_load(EXAMPLE.read_text("utf-8"))["locations"].values()
    places: dict[str, set[str]] = {
        "openapi.yaml, properties of LocationFields": set(schema("LocationFields")["properties"]),
        "openapi.yaml, required members of Location": set(schema("Location")["required"]),
        "config/locations.example.yaml": {name for fields in examples for name in fields},
        "a table `| field | … |` of README.md or docs/*.md": {
            name for path in DOCUMENTS for name in field_tables(path.read_text("utf-8"))
        },
    }
    missing = [
        f"`{field}` is not in {place}"
        for place, names in places.items()
        for field in LOCATION_FIELDS
        if field not in names
    ]
    options = cli_options()
    missing += [
        f"`{field}` has no option {option} of `locations add` and `locations set`"
        for field, spec in LOCATION_FIELDS.items()
        for option in spec.options
        if option not in options
    ]
    assert not missing, "\n".join(["these places must follow:", *missing])


def test_documents_the_examples_and_the_options_have_no_other_fields() -> None:
    documented = set(schema("LocationFields")["properties"]) - {"name"}
    assert documented == LOCATION_FIELDS.keys()
    spec_options = {option for spec in LOCATION_FIELDS.values() for option in spec.options}
    assert cli_options() <= spec_options


def test_every_other_member_of_a_location_is_set_by_the_resolver() -> None:
    declared = {field.name for field in dataclasses.fields(Location)}
    assert declared - LOCATION_FIELDS.keys() == NOT_WRITTEN_BY_OPERATORS


@pytest.mark.parametrize("field", LOCATION_FIELDS)
def test_every_field_has_a_description_and_an_example_that_is_not_its_default(field: str) -> None:
    spec = LOCATION_FIELDS[field]
    assert spec.description.endswith(".")
    assert spec.options
    if field != "url":
        default = getattr(Location(name="one", url="http://one.example"), field)
        assert spec.parse(spec.example, field) != default


async def test_every_field_survives_each_of_its_forms(index: Index) -> None:
    """Registration, the stored form, the JSON of the API, the export and the audit log."""
    registry = Registry(index, TableKeeper(index, FreshnessPolicy(60)), Settings())
    written, _ = await registry.put("one", EXAMPLES, by="ops")
    stored = (await index.records.load()).records["one"].location
    assert stored == written
    assert {name: type(value) for name, value in fields_of(stored).items()} == {
        name: type(value) for name, value in fields_of(written).items()
    }
    row = json.loads(json.dumps(await registry.show("one")))
    assert {name: row[name] for name in LOCATION_FIELDS} == EXAMPLES == fields_of(stored)
    (head,) = Reader().feed(Writer([stored]).head())
    assert isinstance(head, Head)
    assert fields_of(head.locations[0]) == fields_of(stored)
    (entry,) = await registry.log(1)
    assert entry["after"] == EXAMPLES


def test_the_json_of_a_location_can_be_put_again() -> None:
    location = parse_location("one", EXAMPLES)
    assert parse_location("one", {"name": "one", **fields_of(location)}) == location
