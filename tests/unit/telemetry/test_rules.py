"""deploy/prometheus: what the rules name exists, and each alert has its page and its cases.

Whether they fire is judged by promtool: tests/integration/test_promtool.py.
"""

import re
from pathlib import Path

import pytest

from tests.support.alert_cases import CASES
from tests.support.promql import catalogue, complaints, kept_labels, rules, series_of

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "docs" / "runbook"
ALERTS = rules("alerts.yml")
NAMES = [alert["alert"] for alert in ALERTS]
HEADINGS = ["What it means", "What users feel", "Look", "Do", "Over when"]
FREE = {"AlertingWorks"}  # names no metric and is never silent


@pytest.mark.parametrize(
    "rule", [*rules("recording.yml"), *ALERTS], ids=lambda rule: str(rule)[:60]
)
def test_every_metric_and_label_of_a_rule_exists(rule):
    assert complaints(rule["expr"]) == []
    if rule.get("alert") not in FREE:
        assert series_of(rule["expr"])


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("max(smsgw_parked_report) > 1", ["no metric smsgw_parked_report"]),
        (
            'sum by (class) (smsgw_channel_state{status="up"})',
            [
                "smsgw_channel_state has no label status",
                "nothing in it has a label class",
            ],
        ),
        ("smsgw_submit_seconds > 1", ["no metric smsgw_submit_seconds"]),
        ("smsgw:nobody:rate5m > 1", ["no metric smsgw:nobody:rate5m"]),
        (
            'histogram_quantile(0.9, sum by (le) (rate(smsgw_submit_seconds_bucket{le="5"}[5m])))',
            [],
        ),
    ],
)
def test_what_does_not_exist_is_seen(expression, told):
    assert complaints(expression) == told


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_an_alert_says_how_bad_what_and_where_to_read_on(alert):
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in {"page", "ticket", "none"}
    assert alert["annotations"].keys() == {"summary", "runbook"}
    assert alert["annotations"]["runbook"] == f"docs/runbook/{alert['alert']}.md"
    summary = alert["annotations"]["summary"]
    assert summary.endswith(".")
    # A label that the expression drops would be shown as nothing.
    used = set(re.findall(r"\$labels\.(\w+)", summary))
    assert used <= kept_labels(alert["expr"]) | {"instance"}
    assert "{{" not in re.sub(r"\{\{ \$labels\.\w+ \}\}", "", summary)


def test_each_alert_has_its_page_and_each_page_its_alert():
    assert sorted(page.stem for page in PAGES.glob("*.md")) == sorted([*NAMES, "README"])
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_its_five_parts(name):
    page = (PAGES / f"{name}.md").read_text("utf-8")
    assert page.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == HEADINGS
    for metric in re.findall(r"smsgw_\w+", page):
        assert metric in catalogue() or f"{metric}_count" in catalogue(), metric
    for metric in re.findall(r"(?:^|[;(] *)m '?(\w+)", page, re.MULTILINE):
        assert {f"smsgw_{metric}", f"smsgw_{metric}_count"} & catalogue().keys(), metric
    for target in re.findall(r"\]\(([^)#]+)", page):
        assert (PAGES / target).resolve().is_file(), target


def test_what_a_page_greps_for_is_written_by_some_line():
    code = "\n".join(
        path.read_text("utf-8")
        for room in ("adapters", "gateway", "store", "webhooks")
        for path in (ROOT / room).rglob("*.py")
    )
    for name in NAMES:
        page = (PAGES / f"{name}.md").read_text("utf-8")
        for pattern in re.findall(r"^l '([^']*)'", page, re.MULTILINE):
            words = [pattern] if "(" in pattern else pattern.split("|")
            for word in words:
                assert "level" in word or re.search(word, code), f"{name}: {word}"


def test_the_list_of_pages_names_every_alert_with_its_severity():
    told = (PAGES / "README.md").read_text("utf-8")
    listed = re.findall(r"^\| \[(\w+)\]\(\w+\.md\) \| (\w+) \|", told, re.MULTILINE)
    assert listed == [(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS]


def test_every_alert_has_cases():
    assert {case.alert for case in CASES} | FREE == set(NAMES)
    for name in set(NAMES) - FREE:
        of_it = [case for case in CASES if case.alert == name]
        assert any(case.fires is not None for case in of_it), f"{name} never fires"
        assert any(case.fires is None for case in of_it), f"{name} is never silent"


def test_the_burn_rates_are_of_the_objectives():
    """2 % of 30 days in an hour is 14.4 times as fast as allowed, 5 % in 6 h 6, 10 % in a day 3."""
    by_name = {alert["alert"]: alert["expr"] for alert in ALERTS}
    for stem, allowed in (("SendErrors", "0.001"), ("SendsSlow", "0.01")):
        fast, slow = by_name[f"{stem}Fast"], by_name[f"{stem}Slow"]
        factors = [(0.02, 1, "1h", "5m"), (0.05, 6, "6h", "30m")]
        for budget, hours, long, short in factors:
            factor = f"{round(budget * 720 / hours, 1):g}"
            for window in (long, short):
                assert f"rate{window} > {factor} * {allowed}" in fast
        for window in ("1d", "2h"):
            assert f"rate{window} > 3 * {allowed}" in slow
        for window in ("3d", "6h"):
            assert f"rate{window} > {allowed}" in slow
