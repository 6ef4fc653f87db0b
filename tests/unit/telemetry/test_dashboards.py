"""deploy/grafana: its files are as the code makes them, and ask for what exists.

That the queries yield something at a running gateway: the end of tests/flow/test_first_light.py.
"""

import itertools
import json
import re

import pytest
import yaml

from deploy.dashboards import DASHBOARDS, FOLDER
from deploy.grafana_model import Dashboard, Panel, Query, Row, model, text
from tests.support.promql import RULES, complaints, kept_labels, rules, series_of

QUERIES = [
    pytest.param(query, id=f"{dashboard.name}: {title}")
    for dashboard in DASHBOARDS
    for title, query in dashboard.queries()
]


def test_the_files_are_what_the_code_makes():
    """When it fails: `python -m deploy.dashboards`."""
    files = {path.stem: path.read_text("utf-8") for path in FOLDER.glob("*.json")}
    assert files == {dashboard.name: text(dashboard) for dashboard in DASHBOARDS}


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_asks_for_what_exists(query):
    assert complaints(query.expression) == []
    # A legend names labels that the query keeps; a recorded series has its own.
    shown = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
    recorded = {rule["record"]: kept_labels(rule["expr"]) for rule in rules("recording.yml")}
    kept = kept_labels(query.expression) or {"instance", "lane"}
    kept |= set().union(*(recorded.get(one.name, set()) for one in series_of(query.expression)))
    assert shown <= kept


def test_every_variable_that_is_asked_for_is_there():
    for dashboard in DASHBOARDS:
        asked = {
            word
            for _, query in dashboard.queries()
            for word in re.findall(r"\$([a-z]+)", query.expression)
        }
        assert asked == set(dashboard.variables)
        told = {one["name"] for one in model(dashboard)["templating"]["list"]}
        assert told == {"source", *dashboard.variables}


def test_panels_lie_beside_each_other_and_their_numbers_are_their_own():
    for dashboard in DASHBOARDS:
        panels = model(dashboard)["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        places = [panel["gridPos"] for panel in panels]
        assert all(place["x"] + place["w"] <= 24 for place in places)
        for one, other in itertools.combinations(places, 2):
            is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            is_below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert is_beside or is_below


def test_thresholds_of_panels_with_a_limit_are_those_of_the_alerts():
    told = (RULES / "alerts.yml").read_text("utf-8")
    for dashboard in DASHBOARDS:
        for row in dashboard.rows:
            for panel in row.panels:
                if panel.title in {"Event loop late", "Disk used", "Reports parked"}:
                    assert f"> {panel.bad:g}\n" in told


def test_colours_change_in_the_order_of_the_values():
    def steps(panel):
        [found] = _panels_of(panel)
        told = found["fieldConfig"]["defaults"]["thresholds"]["steps"]
        return [(step["color"], step["value"]) for step in told]

    good = Panel("p", [Query("up")], warn=1, bad=5)
    assert steps(good) == [("green", None), ("orange", 1), ("red", 5)]
    low = Panel("p", [Query("up")], warn=0.95, bad=0.5, is_low_bad=True)
    assert steps(low) == [("red", None), ("orange", 0.5), ("green", 0.95)]


def _panels_of(panel):
    told = model(Dashboard("d", "d", "d", [Row("r", [panel])]))
    return [one for one in told["panels"] if one["type"] != "row"]


def test_provisioning_is_readable():
    folder = FOLDER.parent / "provisioning"
    [source] = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["type"] == "prometheus"
    [provider] = yaml.safe_load((folder / "dashboards" / "smsgw.yml").read_text())["providers"]
    assert provider["type"] == "file"
    for path in FOLDER.glob("*.json"):
        assert json.loads(path.read_text("utf-8"))["uid"] == f"smsgw-{path.stem}"
