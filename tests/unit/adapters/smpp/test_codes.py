import json
from pathlib import Path

import pytest

from adapters.smpp.codes import StatusTable
from sms.outcomes import Cause, Rejected, Throttled

CLASSES = json.loads(
    (Path(__file__).parents[3] / "vectors" / "status-classes.json").read_text("utf-8")
)["smpp_command_status"]
EXPECTED = {
    "perm_config": {Cause.CONFIG},
    "perm_number": {Cause.NUMBER},
    "perm_other": {Cause.CONTENT},
    "temp_network": {Cause.CHANNEL},
}
SINGLE = {int(code, 16): row[0] for code, row in CLASSES.items() if "-" not in code}


@pytest.mark.parametrize("status", sorted(set(SINGLE) - {0}))
def test_a_standard_status_means_what_the_house_table_says(status):
    outcome = StatusTable().outcome(status)
    if SINGLE[status] == "throttled":
        assert isinstance(outcome, Throttled)
        return
    assert isinstance(outcome, Rejected)
    # Not bound in that mode: the session is at fault, it binds again (RELIABILITY 6: link).
    causes = {Cause.CHANNEL} if status == 0x04 else EXPECTED[SINGLE[status]]
    assert outcome.cause in causes
    assert outcome.code == f"{status:#010x}"


@pytest.mark.parametrize("status", [0x400, 0x4FF, 0xDEAD])
def test_a_code_nobody_mapped_is_unknown_until_the_channel_maps_it(status):
    unknown = StatusTable().outcome(status)
    assert isinstance(unknown, Rejected)
    assert unknown.cause is Cause.UNKNOWN
    mapped = StatusTable({status: "number"}).outcome(status)
    assert isinstance(mapped, Rejected)
    assert mapped.cause is Cause.NUMBER
    assert isinstance(StatusTable({status: "throttled"}).outcome(status), Throttled)


def test_a_generic_nack_is_a_failure_even_with_status_zero():
    outcome = StatusTable().nack(0)
    assert isinstance(outcome, Rejected)
    assert outcome.code == "nack:0x00000000"
