"""`make bench` as a whole: not how fast it is, but that it adds up."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.load


def test_a_quick_bench_adds_up():
    command = [sys.executable, "-m", "loadtest.bench", "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert found["configuration"]["fsync"] == "on"
    single, batches = found["runs"]
    for run in (single, batches):
        assert run["accepted"] == run["submitted"] == run["received"] > 0
        assert run["problems"] == []
        assert run["steps_us"]


def test_a_quick_flood_of_reports_loses_none():
    command = [sys.executable, "-m", "loadtest.flood", "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert found["reports"] == 12_000
    assert found["backlog"] + found["answered_in_time"] == 12_000
