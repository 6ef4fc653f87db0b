"""The whole command on small numbers: some two minutes, so it is with the campaigns."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.flow, pytest.mark.campaign]


def test_every_event_reaches_every_sink_though_processes_are_killed(tmp_path):
    page = tmp_path / "sinks.html"
    words = ("--quick", "--json", "--report", str(page))
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.sinks", *words],
        capture_output=True,
        check=False,
        timeout=480,
    )
    assert done.stdout, done.stderr.decode()
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert len(found["kills"]) == 2
    assert found["messages"] > 500
    assert "passed" in page.read_text("utf-8")
