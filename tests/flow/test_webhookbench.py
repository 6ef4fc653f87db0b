"""`make bench-webhooks` as a whole: not how fast it is, but that it measures and adds up."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.load


def test_a_quick_bench_measures_every_form_and_loses_nothing():
    command = [sys.executable, "-m", "loadtest.webhookbench", "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)
    found = json.loads(done.stdout)
    nobody, *told = found["speed"].values()
    assert nobody["events"] == 0
    assert all(form["events"] > 1000 for form in told)
    (turns,) = found["fairness"]["rounds"]
    assert turns["well"]["ms"]["count"] > 1000
    assert turns["ill"]["ms"]["count"] > 1000
    assert not [line for line in found["problems"] if "never arrived" in line]
