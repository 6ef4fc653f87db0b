"""One row of the table of faults on small numbers: the whole command, over real sockets.

Beside the load tests: it keeps two cores busy, and what it does to a primary is done in
test_breaker.py as well.
"""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.flow, pytest.mark.load]


def test_a_primary_that_is_reset_and_refused_costs_nothing(tmp_path):
    words = ("--quick", "--json", "--row", "reset", "--protocol", "cmpp", "--out", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.faults", *words],
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.stdout, done.stderr.decode()
    found = json.loads(done.stdout)
    # How fast it was depends on the machine; what must never happen does not.
    [row] = found["rows"]
    checks = {check["name"]: check for check in row["checks"]}
    for name in (
        "lost: accepted, and nobody knows what became of it",
        "unmarked duplicates",
        "more than one second copy",
        "ended otherwise than delivered",
        "in flight and not by their class's policy",
        "illegal transitions, quarantined rows, restarts",
    ):
        assert checks[name]["is_good"], checks[name]
    fault, healed = (at for at, text in row["moments"] if text in ("fault", "healed"))
    seconds, backup = row["series"]["seconds"], row["series"]["backup 1"]
    during = [n for at, n in zip(seconds, backup, strict=True) if fault < at < healed]
    assert sum(during) > 0
    assert done.returncode == bool(found["problems"])
    assert (tmp_path / "report.html").is_file()
