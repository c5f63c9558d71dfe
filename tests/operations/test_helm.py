"""The chart of `deploy/helm`, rendered by Helm's own engine."""

from __future__ import annotations

import copy
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.operations.conftest import ROOT
from tests.operations.test_kubernetes import (
    CUSTOM_KINDS,
    KUBERNETES_VERSIONS,
    RESOURCES,
    identity,
)

helm = pytest.importorskip("helm_python")

CHART = ROOT / "deploy" / "helm"

EVERYTHING: dict[str, Any] = {
    "image": {"repository": "registry.example/glance-resolver", "tag": "1.2.3"},
    "imagePullSecrets": [{"name": "registry"}],
    "secretName": "my-secret",
    "credentialsSecretName": "my-credentials",
    "settings": {
        "RESOLVER_CACHE_SIZE": 5_000_000,
        "RESOLVER_REQUIRE_HTTPS": True,
        "RESOLVER_SHUTDOWN_TIMEOUT": "20",
        "RESOLVER_ALLOWED_HOSTS": "*.cloud.example",
    },
    "locations": {"oslo": {"url": "https://osl.cloud.example", "weight": 2}},
    "gateway": {"drainSeconds": 8, "minReplicas": 3},
    "indexer": {"replicas": 4},
    "service": {"type": "LoadBalancer", "port": 80},
    "networkPolicy": {"egressPorts": [6380]},
    "podMonitor": {"enabled": True},
}


def render(values: dict[str, Any], name: str = "glance-resolver") -> dict[str, dict[str, Any]]:
    """The resources, as ``helm template`` prints them."""
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name=name, namespace="prod")
    documents = [
        document
        for path, text in files.items()
        if not path.endswith(".txt")
        for document in yaml.safe_load_all(text)
        if document
    ]
    found = {identity(document): document for document in documents}
    assert len(found) == len(documents)
    return found


def plain(resource: dict[str, Any]) -> dict[str, Any]:
    """A rendered resource without what only a release has: its name as a label, the checksum of
    its settings, and the image as kustomize would complete it."""
    resource = copy.deepcopy(resource)

    def clean(value: Any) -> None:
        if isinstance(value, dict):
            value.pop("app.kubernetes.io/instance", None)
            for child in value.values():
                clean(child)
        elif isinstance(value, list):
            for child in value:
                clean(child)

    clean(resource)
    if resource["kind"] == "Deployment":
        template = resource["spec"]["template"]
        assert list(template["metadata"].pop("annotations")) == ["checksum/settings"]
        for container in template["spec"]["containers"]:
            container["image"] = container["image"].partition(":")[0]
            assert container.pop("imagePullPolicy") == "IfNotPresent"
    return resource


def test_the_chart_renders_the_same_resources_as_the_manifests() -> None:
    rendered = {
        name: plain(found) for name, found in render({"podMonitor": {"enabled": True}}).items()
    }
    assert rendered == RESOURCES
    assert render({}).keys() == RESOURCES.keys() - {"PodMonitor/glance-resolver"}


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_rendered_resources_fit_the_schema_of_kubernetes(
    values: dict[str, Any], version: str
) -> None:
    for resource in render(values, "other").values():
        if resource["kind"] not in CUSTOM_KINDS:
            kubernetes_validate.validate(resource, version, strict=True)


def test_values_reach_the_rendered_resources() -> None:
    found = render(EVERYTHING, "other")
    gateway = found["Deployment/other-gateway"]["spec"]["template"]["spec"]
    indexer = found["Deployment/other-indexer"]
    (container,) = gateway["containers"]
    assert container["image"] == "registry.example/glance-resolver:1.2.3"
    assert gateway["imagePullSecrets"] == [{"name": "registry"}]
    assert gateway["terminationGracePeriodSeconds"] == 20 + 8 + 15
    assert {"name": "RESOLVER_DRAIN_SECONDS", "value": "8"} in container["env"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in gateway["volumes"]}
    assert mounts.keys() == volumes.keys()
    assert mounts["credentials"] == "/run/secrets"
    assert volumes["secret"]["secret"]["secretName"] == "my-secret"
    assert volumes["credentials"]["secret"]["secretName"] == "my-credentials"
    settings = found["ConfigMap/other"]["data"]
    assert settings["RESOLVER_CACHE_SIZE"] == "5000000"
    assert settings["RESOLVER_REQUIRE_HTTPS"] == "true"
    file = settings["RESOLVER_LOCATIONS_FILE"]
    assert file == f"{mounts['locations']}/locations.yaml"
    locations = found[f"ConfigMap/{volumes['locations']['configMap']['name']}"]["data"]
    assert yaml.safe_load(locations["locations.yaml"]) == {"locations": EVERYTHING["locations"]}
    assert indexer["spec"]["replicas"] == 4
    assert found["HorizontalPodAutoscaler/other-gateway"]["spec"]["minReplicas"] == 3
    service = found["Service/other"]["spec"]
    assert (service["type"], service["ports"][0]["port"]) == ("LoadBalancer", 80)
    policy = found["NetworkPolicy/other-indexer"]["spec"]["egress"]
    assert policy[1] == {"ports": [{"port": 6380}]}


def test_pods_are_replaced_when_a_setting_changes() -> None:
    def checksum(values: dict[str, Any]) -> str:
        pod = render(values)["Deployment/glance-resolver-gateway"]["spec"]["template"]
        return str(pod["metadata"]["annotations"]["checksum/settings"])

    assert checksum({}) == checksum({"gateway": {"minReplicas": 3}})
    assert checksum({}) != checksum({"settings": {"RESOLVER_PROBE": False}})
    assert checksum({}) != checksum({"locations": EVERYTHING["locations"]})


@pytest.mark.parametrize(
    "values",
    [
        {"gatway": {}},
        {"gateway": {"replicas": 3}},
        {"settings": {"resolver host": "x"}},
        {"settings": {"RESOLVER_HOSTS": ["a", "b"]}},
        {"locations": {"Oslo": {"url": "https://oslo.example"}}},
        {"locations": {"oslo": {"region": "Oslo"}}},
        {"networkPolicy": {"egressPorts": [70000]}},
    ],
)
def test_mistyped_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm.HelmError):
        render(values)


def test_helm_lint_accepts_the_chart() -> None:
    result = helm.lint(str(CHART))
    assert result["errors"] == []
    assert [row for row in result["messages"] if "icon" not in row["error"]] == []
