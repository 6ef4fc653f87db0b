"""The bench of HTTP channels runs, alone and in batches; what it says is for people to judge."""

import io

import pytest
from rich.console import Console

from loadtest import vendorbench
from loadtest.progress import progress_bar

pytestmark = pytest.mark.integration


NAMES = ["infobip", "twilio"]  # one that takes several in a request, and one that does not


async def test_every_vendor_takes_what_is_sent(monkeypatch):
    for name, value in (("ROUND_S", 0.05), ("WARM_S", 0.02), ("ROUNDS", 1)):
        monkeypatch.setattr(vendorbench, name, value)
    nobody = Console(file=io.StringIO())
    with progress_bar(nobody) as bar:
        found = await vendorbench.run(NAMES, bar)
    assert {name: len(forms) for name, forms in found["vendors"].items()} == {
        "infobip": 2,
        "twilio": 1,
    }
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
