"""Documents say what the program does: names in one are names in the other."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

import click
import pytest
from aiohttp import web

from resolver.cli import COMMANDS, cli
from resolver.cli.config_command import reference
from resolver.gateway.app import gateway_routes, monitoring_routes
from resolver.index import keys as redis_keys
from resolver.registry.yaml_file import read_locations
from resolver.settings import Settings, load_settings
from tests.support.metric_names import metric_types

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
DOCS = ROOT / "docs"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("client/*.md"), *DOCS.rglob("*.md")])
README_MAX_LINES = 120
COMMAND_SETTINGS = {
    *("RESOLVER_CONFIG", "RESOLVER_URL", "RESOLVER_TOKEN", "RESOLVER_TOKEN_FILE"),
    "RESOLVER_ALLOW_HTTP",
}
"""Read by the operator commands, or by the settings themselves."""


SETTING = re.compile(r"RESOLVER_[A-Z]+(?:_[A-Z]+)*")
FILE = re.compile(r"(?<![\w/-])(?:tests|resolver|benchmarks|config|deploy|docs)/[\w/.-]*\w\.\w+")


def document(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_settings_reference_is_the_settings() -> None:
    """`glance-resolver config --describe` writes the table."""
    table = "\n".join(line for line in document("settings.md").splitlines() if line.startswith("|"))
    assert table == reference(Settings)


def test_settings_named_in_documents_exist() -> None:
    known = {f"RESOLVER_{name.upper()}" for name in Settings.model_fields} | COMMAND_SETTINGS
    files = [ROOT / "docker-compose.yml", *(ROOT / "deploy").rglob("*.*"), *DOCUMENTS]
    unknown = [
        f"{short(path)}: {name}"
        for path in [*files, *(ROOT / "config").rglob("*.*")]
        for name in SETTING.findall(path.read_text("utf-8"))
        if name not in known
    ]
    assert not unknown, "\n".join(unknown)


async def test_each_metric_is_in_the_metrics_reference() -> None:
    rows = re.findall(
        r"^\| `(glance_resolver_\w+)` \| (\w+) \|", document("metrics.md"), re.MULTILINE
    )
    exposed = await metric_types()
    assert dict(rows) == {n: t for n, t in exposed.items() if n.startswith("glance_resolver_")}


async def test_metrics_named_in_documents_exist() -> None:
    exposed = set(await metric_types())
    for path in DOCUMENTS:
        named = set(re.findall(r"\bglance_resolver_(?!client\b)\w+", path.read_text("utf-8")))
        assert named <= exposed, short(path)


def test_each_path_is_in_the_http_reference() -> None:
    app = web.Application()
    app.add_routes([*monitoring_routes(), *gateway_routes()])
    text = document("http-api.md")
    for resource in app.router.resources():
        path = resource.canonical
        words = path.replace("/region/{region}", "/region/<NAME>")
        words = words if words == "/region/<NAME>" else words.removeprefix("/region/<NAME>")
        words = re.sub(r"^/\{api\}", "/v2", words).replace("{id}{rest}", "<ID>")
        words = words.removesuffix("{rest}").rstrip("/") or "/"
        words = words if "/locations/" in words else words.replace("{id}", "<ID>")
        assert words in text, path


def test_each_error_code_is_in_the_http_reference() -> None:
    errors = (ROOT / "resolver" / "errors.py").read_text("utf-8")
    codes = set(re.findall(r'\bcode\b.* = .*?"([a-z-]+)"', errors)) - {"settings"}  # at start only
    assert codes
    text = document("http-api.md")
    assert [code for code in sorted(codes) if f"`{code}`" not in text] == []


def test_each_redis_key_is_described_with_its_type() -> None:
    """In the docstring of the module that names them, which docs/storage.md refers to."""
    described = dict(re.findall(r"^``(\S+)`` +(\w+)", redis_keys.__doc__ or "", re.MULTILINE))
    keys = redis_keys.Keys("glr:")
    single = [keys.sweep_findings(1), keys.pinned_claims(1), keys.departures(1)]
    names = {re.sub(r"1$", "<number>", name) for name in single}
    names |= {keys.result("<id>"), keys.claim_result(b"<bucket>", "<id>").decode()}
    assert names | {keys.lease("<what>")} <= described.keys()
    types = {"sorted set": {"zset"}, "string": {"string", "integer"}}
    for kind, of_kind in keys.by_type().items():
        assert {described[name] for name in of_kind} <= types.get(kind, {kind}), of_kind


def test_each_command_is_in_the_operator_guide() -> None:
    text = document("operators.md")
    group = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(group, name)
        subcommands = command.commands if isinstance(command, click.Group) else [""]
        for subcommand in subcommands:
            full = f"glance-resolver {name} {subcommand}".rstrip()
            assert re.search(rf"^{full}\b", text, re.MULTILINE), full


def test_the_example_locations_can_be_registered() -> None:
    locations = read_locations(str(ROOT / "config" / "locations.example.yaml"))
    assert set(locations) == {"frankfurt", "oslo", "old-lab"}


def test_the_example_settings_can_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    file = ROOT / "config" / "resolver.example.toml"
    monkeypatch.setenv("RESOLVER_CONFIG", str(file))
    settings = load_settings()
    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert settings.allowed_hosts == ("*.example", "10.0.0.0/8")
    # What is commented out must be right too.
    text = re.sub(r"^# (\w+ = )", r"\1", file.read_text("utf-8"), flags=re.MULTILINE)
    Settings(**tomllib.loads(text))


def test_files_named_in_documents_exist() -> None:
    """Paths of the tree, also those in tables of threats and of measurements."""
    missing = [
        f"{short(path)}: {name}"
        for path in DOCUMENTS
        for name in FILE.findall(path.read_text("utf-8"))
        if not (ROOT / name).is_file()
    ]
    assert not missing, "\n".join(missing)


def test_files_named_in_the_architecture_exist() -> None:
    """They are written as seen from the package."""
    named = re.findall(r"`([a-z_]+/[a-z_/]*[a-z_]+(?:\.py|/))`", document("architecture.md"))
    assert len(named) > 20
    places = [ROOT / "resolver", ROOT]
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


def test_links_lead_somewhere() -> None:
    broken = [
        f"{short(path)}: {link}"
        for path in DOCUMENTS
        for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8"))
        if not re.match(r"https?:", link) and not leads_somewhere(path, link)
    ]
    assert not broken, "\n".join(broken)


def leads_somewhere(path: Path, link: str) -> bool:
    """Whether a relative link of a page has a file, and a heading in it."""
    name, _, anchor = link.partition("#")
    target = (path.parent / name).resolve() if name else path
    if not target.exists():
        return False
    return not anchor or anchor in anchors(target.read_text("utf-8"))


def anchors(text: str) -> set[str]:
    """Of the headings of a page, as its renderers make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_each_test_that_the_threat_model_names_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    named = set(re.findall(r"`(tests/[a-z_/]+(?:\.py)?|test_[a-z_]+\.py)`", text))
    assert len(named) > 20
    for name in named:
        path = ROOT / name if "/" in name else ROOT / "tests" / "security" / name
        assert path.exists(), name


def test_each_page_is_linked_from_the_start_page() -> None:
    def linked(page: Path) -> set[Path]:
        links = re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
        return {(page.parent / link).resolve() for link in links}

    measurements = DOCS / "measurements"
    reachable = linked(DOCS / "README.md") | linked(measurements / "README.md")
    pages = {page.resolve() for page in DOCS.rglob("*.md")} - {(DOCS / "README.md").resolve()}
    assert {short(page) for page in pages - reachable} == set()


def test_measurements_have_a_date_and_a_command() -> None:
    for path in sorted(DOCS.glob("measurements/*.md")):
        text = path.read_text("utf-8")
        if path.name != "README.md":
            assert re.search(r"\b20\d\d-\d\d-\d\d\b", text), path.name
            assert re.search(r"python -m benchmarks\.\w+|pytest tests/\w+", text), path.name


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= README_MAX_LINES


def test_the_readme_has_the_two_commands() -> None:
    for mark in ("demo", "test"):
        block = re.search(rf"<!-- {mark} -->\n```sh\n(.+)\n```", README)
        assert block is not None
        assert "\n" not in block[1]


RETIRED_TERMS = "## Retired terms"
"""The heading of the glossary's last table."""


@cache
def retired_terms() -> dict[str, list[str]]:
    """Each retired term with the phrases in which it stays."""
    table = document("glossary.md").partition(RETIRED_TERMS)[2]
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]*)\|$", table, re.MULTILINE)
    return {
        term.strip(): re.findall(r"`([^`]+)`", phrases)
        for term, phrases in rows
        if term.strip() not in ("retired", "---")
    }


RETIRED_TERMS_STAY = {
    "client/glance_resolver_client/async_client.py": {"raw": "a method of httpx"},
    "client/glance_resolver_client/sync_client.py": {"raw": "a method of httpx"},
    "resolver/glance/json_pages.py": {"raw": "a method of the JSON decoder"},
    "resolver/gateway/api/batch_body.py": {"raw": "a method of the JSON decoder"},
    "tests/registry/test_validation.py": {"raw": "an attribute of yarl"},
    "tests/glance/test_one_endpoint.py": {"raw": "a disk format of Glance"},
    "tests/support/balancers.py": {"raw": "a keyword of HAProxy"},
    "tests/test_documents.py": {"told": "the example below"},
}
"""By file: a retired term that it needs, and the reason."""


def checked_for_retired_terms() -> list[Path]:
    """Every text of ours but for the record of what has changed."""
    directories = ("resolver", "client", "tests", "benchmarks", "config", "deploy", "docs", ".ci")
    files = [path for directory in directories for path in (ROOT / directory).rglob("*")]
    files += [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.yml")]
    files += [ROOT / "Dockerfile", ROOT / "Makefile"]
    return sorted(
        path
        for path in files
        if path.is_file()
        and path.name != "CHANGELOG.md"
        and path.suffix not in (".pyc", ".png", ".svg")
        and ".egg-info" not in str(path)
    )


def test_retired_terms_are_gone() -> None:
    """Also as a part of a name: `_told_by` has ``told`` in it. Line breaks count as spaces. The
    list itself is left out."""
    found = [
        f"{short(path)}: {term}"
        for path in checked_for_retired_terms()
        for term in found_terms(path)
    ]
    assert not found, "\n".join(found)


def found_terms(path: Path) -> list[str]:
    """The retired terms in a file."""
    text = path.read_text("utf-8")
    if path.name == "glossary.md":
        text = text.partition(RETIRED_TERMS)[0]
    text = re.sub(r"\s+(?:#|>)?\s*", " ", text.lower())
    stay = RETIRED_TERMS_STAY.get(short(path), {})
    found = []
    for term, phrases in retired_terms().items():
        if term in stay or term not in text:  # most are not, which is found out quickly
            continue
        rest = text
        for phrase in phrases:
            rest = rest.replace(phrase.lower(), "")
        if re.search(rf"(?<![a-z]){term}(?![a-z])", rest):
            found.append(term)
    return found


def test_the_list_has_retired_terms() -> None:
    """Otherwise the test above would pass for any text."""
    assert retired_terms()["told"] == []
    assert len(retired_terms()) > 20
