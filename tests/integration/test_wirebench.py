"""The bench of one session runs for every protocol; what it says is for people to judge."""

import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from gateway.protocols import WIRE
from loadtest import wirebench
from loadtest.progress import progress_bar
from tests.support.gateway_process import ROOT

pytestmark = pytest.mark.integration


async def test_every_protocol_answers_at_every_window(monkeypatch):
    monkeypatch.setattr(wirebench, "ROUND_S", 0.05)
    monkeypatch.setattr(wirebench, "WARM_S", 0.02)
    monkeypatch.setattr(wirebench, "ROUNDS", 1)
    nobody = Console(file=io.StringIO())
    with progress_bar(nobody) as bar:
        found = await wirebench.run(sorted(WIRE), bar)
    assert set(found["protocols"]) == set(WIRE)
    for windows in found["protocols"].values():
        assert set(windows) == set(wirebench.FLOORS_US)
        for told in windows.values():
            assert told["submits_per_s"] > 0
            assert told["cpu_us"] > 0
            assert told["of_smpp"] > 0
    paper = io.StringIO()
    wirebench.show(found, Console(file=paper, width=140))
    lines = paper.getvalue().splitlines()
    for name, windows in found["protocols"].items():
        [line] = [line for line in lines if f" {name} " in line]
        assert f"{windows['16']['cpu_us']:.1f}" in line


def test_who_costs_more_than_twice_smpp_s_is_named():
    costs = {"smpp": 4.0, "cmpp3": 8.1, "smgp": 7.9}
    protocols = {name: {"16": {"cpu_us": cost}} for name, cost in costs.items()}
    wirebench._compare(protocols)
    [problem] = wirebench._problems(protocols)
    assert "cmpp3 at window 16" in problem


@pytest.mark.load
def test_its_json_is_one_object_and_nothing_else():
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.wirebench", "--json", "--protocol", "cmpp2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    told = json.loads(done.stdout)
    assert set(told) == {"machine", "floors_us", "protocols", "problems"}
    assert set(told["protocols"]) == {"cmpp2"}
