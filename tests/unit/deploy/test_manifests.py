"""deploy/compose and deploy/kubernetes, by the schemas of their makers and by our own promises."""

import json
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import kubernetes_validate
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema.validators import validator_for

from gateway import ownership
from gateway.settings import Reliability, Settings
from store.roles import RUNTIME_ROLE

ROOT = Path(__file__).parents[3]
KUBERNETES = ROOT / "deploy" / "kubernetes"
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose" / "compose.yaml").read_text())
VERSIONS = ("1.30", "1.37")  # the oldest that is meant, and the newest that the schemas know
UID = 10001


def found():
    for path in sorted(KUBERNETES.glob("*.yaml")):
        for one in yaml.safe_load_all(path.read_text()):
            if one["kind"] != "Kustomization":
                yield pytest.param(one, id=f"{path.stem}-{one['kind']}-{one['metadata']['name']}")


PARAMS = list(found())
OBJECTS = [param.values[0] for param in PARAMS]
WORKLOADS = [one for one in OBJECTS if one["kind"] in ("Deployment", "StatefulSet")]


def pod(workload):
    return workload["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("one", PARAMS)
def test_kubernetes_takes_it(one, version):
    kubernetes_validate.validate(one, version, strict=True)


def test_the_schema_refuses_what_is_wrong():
    wrong = json.loads(json.dumps(WORKLOADS[0]))
    wrong["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_all_of_them_are_applied_but_the_secret():
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    there = {path.name for path in KUBERNETES.glob("*.yaml")}
    assert there - set(kustomization["resources"]) == {"kustomization.yaml", "secret.example.yaml"}


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one["metadata"]["name"])
def test_a_pod_may_do_nothing_that_it_need_not(workload):
    spec = pod(workload)
    security = spec["securityContext"]
    assert (security["runAsUser"], security["runAsNonRoot"]) == (UID, True)
    assert spec["automountServiceAccountToken"] is False
    for container in spec["containers"]:
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"] is True
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one["metadata"]["name"])
def test_a_pod_has_the_time_of_a_drain(workload):
    assert pod(workload)["terminationGracePeriodSeconds"] >= Reliability().drain_total_s + 5


def test_a_container_of_compose_has_the_time_of_a_drain():
    grace_s = int(COMPOSE["services"]["smsgw"]["stop_grace_period"].rstrip("s"))
    assert grace_s >= Reliability().drain_total_s + 5


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one["metadata"]["name"])
def test_a_role_and_probes_that_this_gateway_has(workload):
    (container,) = pod(workload)["containers"]
    role = container["args"][-1]
    assert container["args"] == ["up", "--role", role]
    assert Settings.load({"SMSGW_ROLE": role}).role == role
    ports = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["port"] in ports
        assert asked["path"] in ("/healthz", "/readyz")
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one["metadata"]["name"])
def test_a_budget_and_a_scale_belong_to_it(workload):
    labels = workload["spec"]["template"]["metadata"]["labels"]
    name = workload["metadata"]["name"]
    (budget,) = (
        one
        for one in OBJECTS
        if one["kind"] == "PodDisruptionBudget"
        and one["spec"]["selector"]["matchLabels"].items() <= labels.items()
    )
    assert budget["spec"]["maxUnavailable"] == 1
    scales = (one["spec"] for one in OBJECTS if one["kind"] == "HorizontalPodAutoscaler")
    (scale,) = (one for one in scales if one["scaleTargetRef"]["name"] == name)
    assert scale["minReplicas"] >= 2
    assert "replicas" not in workload["spec"]  # an apply would undo what the scale chose


def test_only_what_speaks_to_carriers_has_a_volume_that_stays():
    kept = {one["metadata"]["name"] for one in WORKLOADS if one["spec"].get("volumeClaimTemplates")}
    assert kept == {"smsgw-carrier"}


def test_settings_are_ones_that_the_gateway_knows():
    (config,) = (one for one in OBJECTS if one["kind"] == "ConfigMap")
    given = dict(config["data"])
    for workload in WORKLOADS:
        for entry in pod(workload)["containers"][0]["env"]:
            given[entry["name"]] = "postgresql://a/b" if "DATABASE" in entry["name"] else "unix://a"
    given["SMSGW_NODE"] = "smsgw-carrier-0"
    assert Settings.load(given)  # names what it does not know


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one["metadata"]["name"])
def test_each_key_and_each_file_of_the_secret_is_there(workload):
    (secret,) = (one for one in OBJECTS if one["kind"] == "Secret")
    told = secret["stringData"]
    (container,) = pod(workload)["containers"]
    (volume,) = (one for one in pod(workload)["volumes"] if "secret" in one)
    (mount,) = (one for one in container["volumeMounts"] if one["name"] == volume["name"])
    files = {item["path"]: item["key"] for item in volume["secret"]["items"]}
    asked = [one["valueFrom"] for one in container["env"] if "valueFrom" in one]
    keys = {one["secretKeyRef"]["key"] for one in asked if "secretKeyRef" in one}
    assert keys | set(files.values()) == set(told)
    for key in keys:
        url = urlsplit(told[key])
        query = dict(parse_qsl(url.query, strict_parsing=True))
        ca = query["sslrootcert" if url.scheme == "postgresql" else "ssl_ca_certs"]
        assert query.get("sslmode", "verify-full") == "verify-full"
        assert url.scheme in ("postgresql", "rediss")
        assert ca.startswith(f"{mount['mountPath']}/")
        assert "BEGIN CERTIFICATE" in told[files[ca.rpartition("/")[2]]]


def test_compose_is_compose():
    with (ROOT / "deploy" / "compose" / "compose.yaml").open() as file:
        given = yaml.safe_load(file)
    schema = get_builtin_schema("vendor.compose-spec")
    validator = validator_for(schema)(schema)
    assert not list(validator.iter_errors(given))
    given["services"]["smsgw"]["restarts"] = "always"
    assert list(validator.iter_errors(given))


def test_settings_of_compose_are_ones_that_the_gateway_knows():
    given = {
        name: re.sub(r"\$\{\w+:\?[^}]*\}", "x", value)
        for name, value in COMPOSE["services"]["smsgw"]["environment"].items()
    }
    settings = Settings.load(given)
    assert ownership.runtime_role(settings) == RUNTIME_ROLE


def test_compose_mounts_files_that_exist():
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / "deploy" / "compose" / source).exists(), source


def test_no_password_stands_in_a_file():
    for service in COMPOSE["services"].values():
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name or ("URL" in name and "@" in str(value)):
                assert "${" in value, name
