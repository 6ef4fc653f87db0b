import pytest

from loadtest.behaviour import Behaviour, change


def test_what_is_left_out_keeps_its_value():
    changed = change(Behaviour(latency_ms=7, silent=True), {"failure_share": 0.5})
    assert changed == Behaviour(latency_ms=7, silent=True, failure_share=0.5)
    assert change(Behaviour(), {}) == Behaviour()


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        ({"latency_ms": -1}, "/latency_ms"),
        ({"latency_ms": 1.5}, "/latency_ms"),
        ({"receipt_delay_ms": True}, "/receipt_delay_ms"),
        ({"failure_share": 1.1}, "/failure_share"),
        ({"throttle_share": "0.5"}, "/throttle_share"),
        ({"silent": 1}, "/silent"),
        ({"receipts": None}, "/receipts"),
        ({"link": "sideways"}, "/link"),
        ({"failure_status": 0}, "/failure_status"),
        ({"takes_per_s": 0.5}, "/takes_per_s"),
        ({"undelivered_share": True}, "/undelivered_share"),
        ({"report_quirk": "odd"}, "/report_quirk"),
        ({"congestion": 101}, "/congestion"),
        ({"congestion": True}, "/congestion"),
        ({"latencyms": 5}, "/latencyms"),
        ([], ""),
        (None, ""),
    ],
)
def test_a_wrong_or_unknown_field_is_named(raw, pointer):
    wrong = change(Behaviour(), raw)
    assert isinstance(wrong, list)
    [(found, detail)] = wrong
    assert found == pointer
    assert detail


def test_all_that_is_wrong_is_told_at_once():
    wrong = change(Behaviour(), {"silent": 1, "bogus": 2, "latency_ms": 3})
    assert isinstance(wrong, list)
    assert len(wrong) == 2
