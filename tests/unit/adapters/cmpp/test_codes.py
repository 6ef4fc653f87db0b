import json
from pathlib import Path

import pytest

from adapters.cmpp.codes import ResultTable, login_refused
from sms.outcomes import Cause, Rejected, Throttled

CLASSES = json.loads(
    (Path(__file__).parents[3] / "vectors" / "status-classes.json").read_text("utf-8")
)["cmpp_submit_result"]
EXPECTED = {
    "perm_config": Cause.CONFIG,
    "perm_number": Cause.NUMBER,
    "perm_content": Cause.CONTENT,
    "temp_network": Cause.CHANNEL,
    "ported": Cause.CHANNEL,  # the next channel may serve it
}
RESULTS = {int(code): row[0] for code, row in CLASSES.items() if code.isdecimal() and code != "0"}


def test_every_result_of_the_standard_is_mapped():
    assert sorted(RESULTS) == list(range(1, 14))


@pytest.mark.parametrize("result", RESULTS)
def test_a_result_means_what_the_house_table_says(result):
    outcome = ResultTable().outcome(result)
    if RESULTS[result] == "throttled":
        assert isinstance(outcome, Throttled)
        return
    assert isinstance(outcome, Rejected)
    assert outcome.cause is EXPECTED[RESULTS[result]]
    assert outcome.code == str(result)


def test_a_ported_number_is_told_as_one():
    outcome = ResultTable().outcome(9)
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "recipient.ported"


def test_a_result_nobody_mapped_is_unknown_until_the_channel_maps_it():
    unknown = ResultTable().outcome(250)
    assert isinstance(unknown, Rejected)
    assert unknown.cause is Cause.UNKNOWN
    assert isinstance(ResultTable({250: "throttled"}).outcome(250), Throttled)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(1, "version"), (2, "source_addr"), (3, "shared_secret"), (4, "cmpp2"), (99, "ask it")],
)
def test_a_refused_login_names_what_to_check(status, remedy):
    assert remedy in login_refused(status)
