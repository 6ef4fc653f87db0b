"""`make load` and `make bench-growth` as a whole, short: that they work, not how fast it is."""

import json
import subprocess
import sys

import pytest

from loadtest.loadreport import TOOLS

pytestmark = pytest.mark.load


def run(*words):
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, capture_output=True, check=False, timeout=550)
    assert done.stdout, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.mark.skipif(not TOOLS.exists(), reason="locust is not installed: make load")
def test_nothing_is_lost_when_a_carrier_goes_under_load(tmp_path):
    words = ("--json", "--seconds", "15", "--per-minute", "30000", "--off-for", "4")
    found = run("loadtest.load", *words, "--out", str(tmp_path))
    rows = {row["name"]: row for row in found["rows"]}
    for name in (
        "without a final event at the sink",
        "never at a carrier",
        "delivered without all segments",
        "sent twice and not told",
        "known outside, but never accepted",
        "final, but not delivered",
    ):
        assert rows[name]["is_good"], rows[name]
    assert len(found["by_tenant"]) == 8
    names = {path.name for path in tmp_path.iterdir()}
    assert {"report.html", "locust.html", "load.json", "delivered.svg"} <= names


def test_a_small_growth_run_compares_all_settings():
    words = ("--json", "--scale", "0.001", "--seconds", "3", "--rounds", "1", "--idle", "2")
    found = run("loadtest.growth", *words, "--warm-up", "1")
    assert found["problems"] == []
    assert set(found["figures"]) == {"full", "many"}
    assert found["facts"]["full"]["messages"] == 15_000
    assert any("receipt" in figure["name"] for figure in found["figures"]["full"])
