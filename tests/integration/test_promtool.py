"""promtool judges deploy/prometheus: its syntax, and when each alert fires.

The cases are tests/support/alert_cases.py. What a running gateway shows: the end of
tests/flow/test_first_light.py.
"""

import re
from itertools import groupby

import pytest
import yaml

from telemetry.metrics import Metrics, render
from tests.support.alert_cases import CASES, Case
from tests.support.prometheus import promtool
from tests.support.promql import RULES, rules, series_of

pytestmark = pytest.mark.integration
SCRAPED = 'up{job="smsgw",instance="a"}'


def test_the_files_are_right():
    for words in (
        ("check", "rules", "--lint-fatal", str(RULES / "recording.yml"), str(RULES / "alerts.yml")),
        ("check", "config", str(RULES / "prometheus.yml")),
    ):
        told = promtool(*words)
        assert told.returncode == 0, told.stdout + told.stderr


def test_metrics_are_named_as_prometheus_asks():
    metrics = Metrics()
    for number, series in enumerate(metrics.series()):
        labels = tuple(f"v{number}" for _ in series.labels)
        for name in ("inc", "observe", "set"):
            if hasattr(series, name):
                getattr(series, name)(*((labels,) if name == "inc" else (labels, 1.0)))
                break
    told = promtool("check", "metrics", stdin=render(metrics.snapshot()).decode())
    assert (told.returncode, told.stderr) == (0, "")


def of_node_a(series: str) -> str:
    if "instance=" in series:
        return series
    name, _, labels = series.partition("{")
    return f'{name}{{instance="a",{labels or "}"}'


def as_test(case: Case) -> dict[str, object]:
    """One test of promtool's: is the alert firing at that minute, and with what labels?"""
    series = {of_node_a(name): values for name, values in case.series.items()}
    if SCRAPED not in series:
        series[SCRAPED] = f"1x{case.at}"
    labels = sorted(case.fires or {})
    asked = (
        f'count by ({", ".join(labels)}) (ALERTS{{alertname="{case.alert}",alertstate="firing"}})'
    )
    shown = (
        "{" + ",".join(f'{label}="{case.fires[label]}"' for label in labels) + "}"
        if case.fires
        else "{}"
    )
    return {
        "name": f"{case.alert}: {case.series} at {case.at}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": asked,
                "eval_time": f"{case.at}m",
                "exp_samples": [] if case.fires is None else [{"labels": shown, "value": 1}],
            }
        ],
    }


def rules_for(alert: str) -> list[dict[str, object]]:
    """The alert and what it asks of recorded series: all of them for each case take minutes."""
    [rule] = [rule for rule in rules("alerts.yml") if rule["alert"] == alert]
    named = {series.name for series in series_of(rule["expr"])}
    return [*(rule for rule in rules("recording.yml") if rule["record"] in named), rule]


def judged(folder, cases):
    files = []
    for alert, of_it in groupby(
        sorted(cases, key=lambda case: case.alert), lambda case: case.alert
    ):
        rule_file, file = folder / f"{alert}.rules.yml", folder / f"{alert}.yml"
        rule_file.write_text(
            yaml.safe_dump({"groups": [{"name": alert, "rules": rules_for(alert)}]})
        )
        told = {
            "rule_files": [rule_file.name],
            "evaluation_interval": "1m",
            "tests": [as_test(case) for case in of_it],
        }
        file.write_text(yaml.safe_dump(told, allow_unicode=True))
        files.append(str(file))
    return promtool("test", "rules", *files)


def test_alerts_fire_when_they_must_and_are_silent_when_they_must_not(tmp_path):
    told = judged(tmp_path, CASES)
    assert told.returncode == 0, re.sub(r"\n\s*\n", "\n", told.stdout + told.stderr)[-6000:]


def test_a_case_that_is_wrong_is_found(tmp_path):
    quiet = next(case for case in CASES if case.alert == "LoopLag" and case.fires is None)
    wrong = Case(quiet.alert, quiet.series, {"instance": "a"}, quiet.at)
    assert judged(tmp_path, [wrong]).returncode != 0
