"""The Kubernetes manifests, against the schemas of KubeRay and Kubernetes; a field too many is an error."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
SCHEMAS = ROOT.parent / "shared" / "schemas" / "kuberay"
CLUSTERS = ("raycluster", "rayjob")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERAY / f"{name}.yaml").read_text()))


def manifest_of(name: str) -> dict[str, Any]:
    """The RayCluster's spec in a manifest."""
    (document,) = documents(name)
    return document["spec"].get("rayClusterSpec", document["spec"])


def pods_of(name: str) -> dict[str, dict[str, Any]]:
    """Pod specs of a cluster by group."""
    cluster = manifest_of(name)
    groups = {"head": cluster["headGroupSpec"]} | {
        group["groupName"]: group for group in cluster["workerGroupSpecs"]
    }
    return {group: spec["template"]["spec"] for group, spec in groups.items()}


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A resource's schema as JSON schema in which unknown fields are errors."""
    made: dict[str, Any] = {key: value for key, value in schema.items() if not key.startswith("x-")}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    if "properties" in schema:
        made["properties"] = {name: strict(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = strict(made[key])
    return made


def violations(kind: str, document: dict[str, Any]) -> list[str]:
    path = SCHEMAS / f"ray.io_{kind}s.yaml.gz"
    if not path.is_file():
        pytest.skip(f"KubeRay's schemas not found at {SCHEMAS}")
    definition = yaml.load(gzip.decompress(path.read_bytes()), yaml.CSafeLoader)
    (version,) = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    # Every resource has metadata, of which the definition only says that it is an object.
    schema["properties"]["metadata"] = {"type": "object"}
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(document)]


@pytest.mark.parametrize("kind", CLUSTERS)
def test_kuberay_takes_the_manifest_and_would_refuse_an_unknown_field(kind: str) -> None:
    (document,) = documents(kind)
    assert violations(kind, document) == []
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["volumeMount"] = []
    assert len(violations(kind, document)) == 1


@pytest.mark.parametrize("name", ["redis", "network-policy"])
def test_kubernetes_takes_the_manifest(name: str) -> None:
    for document in documents(name):
        kubernetes_validate.validate(document, "1.32", strict=True)


@pytest.mark.parametrize("name", CLUSTERS)
def test_pods_are_what_kubernetes_takes_and_run_without_privileges(name: str) -> None:
    for pod in pods_of(name).values():
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": pod}
        kubernetes_validate.validate(whole, "1.32", strict=True)
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_object_store_fits_its_volume_and_the_volume_fits_the_pod(name: str) -> None:
    cluster = manifest_of(name)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        store = int(group["rayStartParams"]["object-store-memory"])
        pod = group["template"]["spec"]
        (volume,) = [each for each in pod["volumes"] if each["name"] == "shm"]
        (container,) = pod["containers"]
        assert volume["emptyDir"]["medium"] == "Memory"
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        memory = container["resources"]["limits"]["memory"]
        assert store < gibibytes(volume["emptyDir"]["sizeLimit"]) * 2**30 <= gibibytes(memory) * 2**30 / 2


def gibibytes(quantity: str) -> int:
    return int(quantity.removesuffix("Gi"))


@pytest.mark.parametrize("name", CLUSTERS)
def test_clusters_ask_for_the_token_grow_and_shrink_and_keep_work_off_the_head(name: str) -> None:
    cluster = manifest_of(name)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    gpu = [group for group in cluster["workerGroupSpecs"] if group["groupName"] == "gpu"]
    assert gpu[0]["minReplicas"] == 0 < gpu[0]["maxReplicas"]
    assert gpu[0]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_a_run_has_the_same_gpu_pods_as_the_cluster_that_stays() -> None:
    assert pods_of("rayjob")["gpu"] == pods_of("raycluster")["gpu"]
    assert pods_of("rayjob")["head"] == pods_of("raycluster")["head"]


def test_workers_leave_before_their_pod_is_ended() -> None:
    for name in CLUSTERS:
        for group, pod in pods_of(name).items():
            if group == "head":
                continue
            program, script, option, seconds = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
            assert (program, script, option) == ("python", "/opt/forebrain/cluster/leave.py", "--seconds")
            assert float(seconds) + 10 < pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("path", sorted(KUBERAY.glob("*.yaml")), ids=lambda path: path.stem)
def test_secrets_are_referred_to_and_never_written_down(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"kind: Secret\b|stringData|AWS_SECRET_ACCESS_KEY:", text)
    for document in yaml.safe_load_all(text):
        for name, value in environment_values(document):
            assert not re.search("key|secret|token|password", name, re.IGNORECASE) or value is None, name


def environment_values(node: Any) -> list[tuple[str, Any]]:
    """Every (name, value) that a manifest gives a container, value None where it is a reference."""
    if isinstance(node, list):
        return [pair for each in node for pair in environment_values(each)]
    if not isinstance(node, dict):
        return []
    own = [(each["name"], each.get("value")) for each in node.get("env", [])]
    return own + [pair for each in node.values() for pair in environment_values(each)]


def test_the_head_that_stays_keeps_what_it_knows_in_the_redis_beside_it() -> None:
    options = manifest_of("raycluster")["gcsFaultToleranceOptions"]
    service, redis = documents("redis")
    assert options["redisAddress"] == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    (container,) = redis["spec"]["template"]["spec"]["containers"]
    (password,) = container["env"]
    assert password["valueFrom"] == options["redisPassword"]["valueFrom"]


def test_metrics_are_collected_from_every_pod() -> None:
    (monitor,) = documents("pod-monitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for name in CLUSTERS:
        for pod in pods_of(name).values():
            ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
            assert ports[endpoint["port"]] == 8080
