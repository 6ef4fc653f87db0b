"""The bench of one session runs for every protocol; what it says is for people to judge."""

import json
import subprocess
import sys

import pytest

from gateway.protocols import PROTOCOLS
from loadtest import wirebench
from tests.support.gateway_process import ROOT

pytestmark = pytest.mark.integration


async def test_every_protocol_answers_at_every_window(monkeypatch):
    monkeypatch.setattr(wirebench, "ROUND_S", 0.1)
    monkeypatch.setattr(wirebench, "WARM_S", 0.02)
    found = await wirebench.run(sorted(PROTOCOLS))
    assert set(found) == set(PROTOCOLS)
    for windows in found.values():
        assert set(windows) == set(wirebench.FLOORS_US)
        for told in windows.values():
            assert told["submits_per_s"] > 0
            assert told["cpu_us"] > 0


def test_its_output_is_one_json_object_and_nothing_else():
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.wirebench", "--protocol", "cmpp2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert set(json.loads(done.stdout)) == {"floors_us", "cmpp2"}
