"""The bench of HTTP channels runs for every vendor; what it says is for people to judge."""

import io

import pytest
from rich.console import Console

from loadtest import vendorbench
from loadtest.progress import progress_bar

pytestmark = pytest.mark.integration


async def test_every_vendor_takes_what_is_sent_alone_and_in_batches(monkeypatch):
    for name, value in (("ROUND_S", 0.05), ("WARM_S", 0.02), ("ROUNDS", 1)):
        monkeypatch.setattr(vendorbench, name, value)
    nobody = Console(file=io.StringIO())
    with progress_bar(nobody) as bar:
        found = await vendorbench.run(sorted(vendorbench.BENCHES), bar)
    assert set(found["vendors"]) == set(vendorbench.BENCHES)
    for forms in found["vendors"].values():
        for told in forms.values():
            assert told["messages_per_s"] > 0
            assert told["of_floor"] > 0
    vendorbench.compare(found, found)
    paper = io.StringIO()
    vendorbench.show(found, Console(file=paper, width=140))
    for name, forms in found["vendors"].items():
        lines = [line for line in paper.getvalue().splitlines() if f" {name} " in line]
        assert len(lines) == len(forms)
        assert f"{forms['single']['cpu_us']:.1f}" in lines[0]
        assert forms["single"]["of_record"] == 1.0
