"""The body of an SMGP report, in the shapes that implementations write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.smgp.receipt import parse_report
from tests.support.smgp import MSG_ID, report_body

OUTER = b"\x99" * 10
REST = b" sub:001 dlvrd:001 submit date:2611212025 done date:2611212025"


@given(st.binary(min_size=10, max_size=10))
def test_ten_octets_of_any_value_are_the_id(msg_id):
    assert parse_report(report_body(msg_id), OUTER) == (msg_id.hex(), "DELIVRD", "000")


def test_an_id_that_spells_a_marker_is_still_an_id():
    for msg_id in (b" sub:stat:", b"stat:DELIV", b"err:123 id"):
        assert parse_report(report_body(msg_id), OUTER) == (msg_id.hex(), "DELIVRD", "000")


@pytest.mark.parametrize(
    "rest",
    [
        b" sub:001 dlvrd:001 submit_date:2611212025 done_date:2611212025 stat:UNDELIV err:005",
        b" Sub:001 Dlvrd:001 Submit date:2611212025 Done date: 2611212025 Stat:UNDELIV Err:005",
        b" sub:001 dlvrd:001 submit date: 2611212025 done date:  stat: UNDELIV err: 005 txt:",
        b" sub:001 dlvrd:000 submit date:          done date:2611212025 stat:UNDELIV err:005 Text:",
        b" stat:UNDELIV err:005",
        b" err:005 stat:UNDELIV",
    ],
)
def test_the_rest_is_read_by_its_markers(rest):
    assert parse_report(b"id:" + MSG_ID + rest, OUTER) == (MSG_ID.hex(), "UNDELIV", "005")


def test_twenty_digits_are_read_as_such():
    body = b"id:" + MSG_ID.hex().upper().encode() + REST + b" stat:DELIVRD err:000"
    assert parse_report(body, OUTER) == (MSG_ID.hex(), "DELIVRD", "000")
    letters = b"id:01E2401121203209ABBE" + REST + b" stat:DELIVRD err:000"
    assert parse_report(letters, OUTER) == ("01e2401121203209abbe", "DELIVRD", "000")


def test_ten_octets_that_look_like_digits_are_ten_octets():
    assert parse_report(report_body(b"0123456789"), OUTER) == (
        b"0123456789".hex(),
        "DELIVRD",
        "000",
    )


def test_a_cut_body_keeps_what_it_says():
    """gosms writes a MsgLength of 115 over 122 octets; nothing of worth is behind it."""
    assert parse_report(report_body()[:115], OUTER) == (MSG_ID.hex(), "DELIVRD", "000")
    stop = report_body().index(b" err:")
    assert parse_report(report_body()[:stop], OUTER) == (MSG_ID.hex(), "DELIVRD", "")


def test_a_body_without_an_id_leaves_the_outer_one():
    assert parse_report(REST + b" stat:DELIVRD err:000", OUTER) == (OUTER.hex(), "DELIVRD", "000")


@pytest.mark.parametrize("body", [b"", b"id:", b"id:123", b"hello", report_body()[:60]])
def test_a_body_without_a_state_is_none(body):
    assert parse_report(body, OUTER) is None


@given(st.binary(max_size=255))
def test_nothing_makes_it_fail(body):
    found = parse_report(body, OUTER)
    assert found is None or (len(found[0]) == 20 and found[1])


@pytest.mark.parametrize("rest", [b" stat:DELIVRDerr:000", b" stat:DELIVRDErr : 000 text:"])
def test_the_state_ends_where_a_carrier_leaves_the_blank_out(rest):
    assert parse_report(b"id:" + MSG_ID + REST + rest, OUTER) == (MSG_ID.hex(), "DELIVRD", "000")
