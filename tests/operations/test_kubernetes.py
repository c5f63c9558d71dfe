"""The manifests of `deploy/kubernetes`: valid, consistent, and true of the program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from resolver.settings import Settings
from tests.cli.test_serve import get, serve
from tests.operations.conftest import ROOT
from tests.support.wait import wait_until

FOLDER = ROOT / "deploy" / "kubernetes"

SECRET_FOLDER = "/etc/glance-resolver"

KUBERNETES_VERSIONS = ("1.27", kubernetes_validate.latest_version())
"""The oldest and the newest schema."""

CUSTOM_KINDS = {"PodMonitor"}
"""Of operators, whose schemas are not Kubernetes's."""


def resources() -> Iterator[dict[str, Any]]:
    for path in sorted(FOLDER.glob("*.yaml")):
        if path.name != "kustomization.yaml":
            yield from yaml.safe_load_all(path.read_text("utf-8"))


def identity(resource: dict[str, Any]) -> str:
    return f"{resource['kind']}/{resource['metadata']['name']}"


RESOURCES = {identity(resource): resource for resource in resources()}
DEPLOYMENTS = {
    name.removeprefix("Deployment/glance-resolver-"): resource
    for name, resource in RESOURCES.items()
    if resource["kind"] == "Deployment"
}
"""By role."""


def container(role: str) -> dict[str, Any]:
    (found,) = DEPLOYMENTS[role]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def environment(role: str) -> dict[str, str]:
    """The variables of a container, as Kubernetes makes them."""
    variables: dict[str, str] = {}
    for source in container(role)["envFrom"]:
        variables |= RESOURCES[f"ConfigMap/{source['configMapRef']['name']}"]["data"]
    return variables | {row["name"]: row["value"] for row in container(role)["env"]}


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize(
    "name", [name for name in RESOURCES if RESOURCES[name]["kind"] not in CUSTOM_KINDS]
)
def test_a_manifest_fits_the_schema_of_kubernetes(name: str, version: str) -> None:
    kubernetes_validate.validate(RESOURCES[name], version, strict=True)


def test_the_kustomization_has_each_file() -> None:
    text = (FOLDER / "kustomization.yaml").read_text("utf-8")
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(yaml.safe_load(text)["resources"]) == files - {"podmonitor.yaml"}
    assert "# - podmonitor.yaml" in text
    (image,) = yaml.safe_load(text)["images"]
    assert {container(role)["image"] for role in DEPLOYMENTS} == {image["name"]}


@pytest.mark.parametrize("role", DEPLOYMENTS)
def test_selectors_match_the_labels_of_their_pods(role: str) -> None:
    pod = DEPLOYMENTS[role]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    name = f"glance-resolver-{role}"
    selectors = [
        DEPLOYMENTS[role]["spec"]["selector"]["matchLabels"],
        RESOURCES[f"PodDisruptionBudget/{name}"]["spec"]["selector"]["matchLabels"],
        RESOURCES[f"NetworkPolicy/{name}"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert [selector for selector in selectors if selector != labels] == []
    assert RESOURCES["PodMonitor/glance-resolver"]["spec"]["selector"]["matchLabels"].items() <= (
        labels.items()
    )
    assert pod["spec"]["enableServiceLinks"] is False


def test_the_service_and_the_autoscaler_are_of_the_gateway() -> None:
    labels = DEPLOYMENTS["gateway"]["spec"]["template"]["metadata"]["labels"]
    assert RESOURCES["Service/glance-resolver"]["spec"]["selector"] == labels
    scaler = RESOURCES["HorizontalPodAutoscaler/glance-resolver-gateway"]["spec"]
    assert f"Deployment/{scaler['scaleTargetRef']['name']}" in RESOURCES


@pytest.mark.parametrize("role", DEPLOYMENTS)
def test_a_container_is_ended_later_than_the_program_ends_itself(role: str) -> None:
    pod = DEPLOYMENTS[role]["spec"]["template"]["spec"]
    drain = float(environment(role).get("RESOLVER_DRAIN_SECONDS", 0))
    shutdown = Settings.model_fields["shutdown_timeout"].default
    assert pod["terminationGracePeriodSeconds"] >= shutdown + drain + 5


@pytest.mark.redis
@pytest.mark.parametrize("role", DEPLOYMENTS)
async def test_a_container_starts_and_its_probes_succeed(
    role: str, tmp_path: Path, redis_url: str
) -> None:
    """With the arguments, variables and files of the manifest, on another port of this host."""
    (tmp_path / "redis-url").write_text(f"{redis_url}\n")
    (tmp_path / "admin-tokens").write_text("ops=a-secret\n")
    found = container(role)
    assert [port["containerPort"] for port in found["ports"]] == [
        int(environment(role).get("RESOLVER_PORT", Settings.model_fields["port"].default))
    ]
    environ = {
        name: value.replace(SECRET_FOLDER, str(tmp_path))
        for name, value in environment(role).items()
    }
    (mount,) = [row for row in found["volumeMounts"] if row["name"] == "secret"]
    assert mount["mountPath"] == SECRET_FOLDER
    assert found["args"] == ["serve"]
    async with serve(**environ | {"RESOLVER_HOST": "127.0.0.1"}) as server:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            path = found[probe]["httpGet"]["path"]

            async def succeeds(url: str = f"{server.url}{path}") -> bool:
                return (await get(url))[0] == 200

            await wait_until(succeeds, message=path)
        assert f"({role})" in server.output
