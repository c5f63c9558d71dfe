"""What errors suggest can be done: header fields and parameters that the route takes, paths that
there are, commands with these options."""

from __future__ import annotations

import ast
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest

from resolver.cli import cli
from resolver.gateway.api.status import openapi_document
from resolver.standin import Caller
from tests.gateway.callers import Begin, begin
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.support.clouds import cloud_of
from tests.support.faults import status

__all__ = ["begin"]

PACKAGE = Path(__file__).parents[2] / "resolver"
ID = "5ca1ab1e-0000-4000-8000-00000000c0de"
FILLED = {
    "api": "v2",
    "id": ID,
    "rest": "file",
    "region": "north",
    "name": "one",
    "path": "nothing",
    "file": "x",
}
TAKEN_BY_ALL = {"Content-Type", "Content-Encoding", "X-Auth-Token"}
"""The last, where Keystone is asked who a client is, as the document's introduction says."""

QUERIES = (
    "",
    "bogus=1",
    "fresh=7",
    "marker=zz",
    "region=north&tag=x",
    "name=debian",
    "region=nowhere",
)

Suggestions = defaultdict[str, set[str]]
"""By path of the document: header fields and parameters that its errors suggest."""


def operations() -> Iterator[tuple[str, str, set[str]]]:
    """Each path, each of its methods but for the changes of admins, and what header fields and
    parameters it takes."""

    document = openapi_document()
    shared = document["components"]["parameters"]

    def name_of(parameter: dict[str, Any]) -> str:
        if "$ref" in parameter:
            return name_of(shared[parameter["$ref"].split("/")[-1]])
        return str(parameter["name"])

    for path, item in document["paths"].items():
        for method in ("get", "head", "put", "post", "patch", "delete"):
            if method in item and (method == "get" or "security" not in item[method]):
                parameters = [*item.get("parameters", ()), *item[method].get("parameters", ())]
                yield path, method, {*map(name_of, parameters), *TAKEN_BY_ALL}


def suggested(text: str) -> set[str]:
    """The header fields and parameters that a text names as something to send."""
    fields = re.findall(r"\b(X-[A-Za-z-]+[a-z]|Content-\w+|Accept)\b", text)
    parameters = re.findall(r"\?(\w+)=", text) + re.findall(r"(?:with|parameter) `(\w+)`", text)
    use = re.search(r": use ([\w, ]+ or \w+)", text)
    return {*fields, *parameters, *(re.split(r", | or ", use[1]) if use else ())}


async def walk(gateway: Gateway, headers: Mapping[str, str], found: Suggestions) -> None:
    """Sends each operation requests that fail, and checks what the errors suggest."""
    for path, method, taken in operations():
        filled = re.sub(r"\{(\w+)\}", lambda match: FILLED[match[1]], path)
        if path == "/page/events":
            continue
        for query in QUERIES:
            url = f"{filled}?{query}" if query else filled
            response, body = await gateway.call(method.upper(), url, headers=dict(headers))
            if response.status < 400 or not body:
                continue
            names = suggested(body["detail"])
            assert names <= taken, (method, url, body["detail"])
            for named in re.findall(r"\b(?:GET|POST|PUT|URL) (/[\w/]+)", body["detail"]):
                template = named.replace("NAME", "north")
                assert (await gateway.get(template))[0].status != 404, body["detail"]
            found[path] |= names


async def test_errors_suggest_what_their_route_takes(
    start: Start, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: Suggestions = defaultdict(set)
    token = {**ADMIN, "X-Auth-Token": "token"}
    monkeypatch.setenv("GLANCE_OPS", "token")
    for domains, settings in (
        (("",), {"probe": True}),
        (("", "south"), {}),
        (("",), {"listing": False}),
    ):
        gateway = await start(**settings)
        async with cloud_of(gateway.services) as cloud:
            for name, domain in zip(("one", "two"), domains * 2, strict=False):
                await cloud.add(
                    name,
                    tokens={"token": Caller("operators", admin=True)},
                    fields={
                        "region": "north",
                        "domain": domain,
                        "auth": {"token_env": "GLANCE_OPS"},
                    },
                )
            cloud.set_fault("two", status(500))
            await walk(gateway, token, found)
    world = await begin("token")
    await walk(world.gateway, {}, found)
    assert "X-Resolver-Partial" in found["/v2/images"] & found["/resolve"]
    assert "X-Resolver-Region" in found["/v2/images"] & found["/report/missing"]
    assert "region" in found["/resolve"] & found["/report/missing"] & found["/resolve/{id}"]
    assert "X-Resolver-Partial" not in found["/report/missing"]
    assert "X-Auth-Token" in found["/{api}/images/{id}"]


def texts_of_errors() -> Iterator[tuple[str, str]]:
    """The texts in the program, with what is inserted as ``NAME``, each with where it is."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else "NAME" for v in node.values)
                yield "".join(map(str, parts)), f"{file.name}:{node.lineno}"
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value, f"{file.name}:{node.lineno}"


def test_commands_in_texts_exist_with_their_options() -> None:
    count = 0
    for text, where in texts_of_errors():
        for quoted in re.findall(
            r"`((?:glance-resolver )?(?:locations|index|report) [^`]+)`", text
        ):
            count += 1
            command: click.Command = cli
            context = click.Context(cli)
            words = shlex.split(quoted.removeprefix("glance-resolver ").replace("…", "X"))
            while isinstance(command, click.Group) and words:
                found = command.get_command(context, words.pop(0))
                assert found is not None, (where, quoted)
                command = found
            options = {name for parameter in command.params for name in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options, (where, quoted)
    assert count > 15
