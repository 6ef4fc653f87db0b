"""deploy/kubernetes/monitoring: what the autoscaler asks for is what the adapter makes."""

import re
from pathlib import Path

import kubernetes_validate
import yaml

from tests.support.promql import catalogue, complaints, rules

ROOT = Path(__file__).parents[3]
KUBERNETES = ROOT / "deploy" / "kubernetes"


def load(name):
    return list(yaml.safe_load_all((KUBERNETES / name).read_text("utf-8")))


(ADAPTER,) = load("monitoring/adapter.yaml")
(MONITOR,) = load("monitoring/podmonitor.yaml")
(RULE,) = yaml.safe_load(ADAPTER["data"]["config.yaml"])["externalRules"]


def asked():
    """The external metric of the autoscaler of what speaks to carriers."""
    for one in load("autoscale.yaml"):
        for metric in one["spec"]["metrics"]:
            if metric["type"] == "External":
                return metric["external"]["metric"], one["metadata"]["namespace"]
    raise AssertionError("no external metric")


def test_the_adapters_rule_makes_what_the_autoscaler_asks_for():
    kubernetes_validate.validate(ADAPTER, "1.37", strict=True)
    metric, namespace = asked()
    assert RULE["name"]["as"] == metric["name"]
    series = RULE["seriesQuery"].partition("{")[0]
    labels = metric["selector"]["matchLabels"]
    assert labels.keys() <= catalogue()[series]
    matchers = ",".join(f'{k}="{v}"' for k, v in {**labels, "namespace": namespace}.items())
    query = RULE["metricsQuery"]
    for place, value in (
        ("<<.Series>>", series), ("<<.LabelMatchers>>", matchers), ("<<.GroupBy>>", "namespace"),
    ):  # fmt: skip
        assert place in query
        query = query.replace(place, value)
    assert query == (
        'max(smsgw_queue_oldest_age_seconds{class="transactional",namespace="smsgw"})'
        " by (namespace)"
    )
    assert complaints(query.replace(',namespace="smsgw"', "").replace(" by (namespace)", "")) == []


def test_the_monitor_finds_the_pods_by_a_port_that_they_have():
    (endpoint,) = MONITOR["spec"]["podMetricsEndpoints"]
    chosen = MONITOR["spec"]["selector"]["matchLabels"].items()
    for name in ("api.yaml", "carrier.yaml"):
        template = load(name)[0]["spec"]["template"]
        assert chosen <= template["metadata"]["labels"].items()
        (container,) = template["spec"]["containers"]
        assert endpoint["port"] in {port["name"] for port in container["ports"]}


def test_the_monitor_gives_the_job_that_the_alerts_ask_for():
    job = MONITOR["spec"]["selector"]["matchLabels"][MONITOR["spec"]["jobLabel"]]
    asked = {
        found for rule in rules("alerts.yml") for found in re.findall(r'job="(\w+)"', rule["expr"])
    }
    assert asked == {job}
