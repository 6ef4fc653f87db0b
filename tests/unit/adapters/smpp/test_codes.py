"""Words for a login that was refused, and generic_nack; what codes mean: tests/unit/sms."""

from adapters.smpp.codes import StatusTable, login_refused
from sms.outcomes import Cause, Rejected


def test_a_refused_login_is_told_by_name_with_a_remedy():
    assert login_refused(0x0E).startswith("bind refused 0x0000000e (RINVPASWD), the password is")
    assert "(RSERTYPDENIED), ask the carrier" in login_refused(0x103)  # SMPP 5.0
    assert login_refused(0x4FF).startswith("bind refused 0x000004ff, ask the carrier")
    assert "with generic_nack 0x00000003 (RINVCMDID)" in login_refused(3, is_nack=True)


def test_a_generic_nack_is_a_failure_even_with_status_zero():
    outcome = StatusTable().nack(0)
    assert outcome == Rejected("nack:0x00000000", Cause.UNKNOWN, "carrier.unknown_code")


def test_the_channels_own_classes_go_first():
    assert StatusTable({0x401: "perm_number"}).outcome(0x401).code == "0x00000401"
    assert StatusTable({0x0B: "ported"}).outcome(0x0B) == Rejected(
        "0x0000000b", Cause.NETWORK, "recipient.ported"
    )
