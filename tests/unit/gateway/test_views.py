"""The message object and its timeline."""

from __future__ import annotations

from gateway.views import add_codes, mask_number, message_view, rfc3339
from receipts.state import Path, fold
from sms.model import Carrier, Encoding, EventRow, Message, MessageClass, State

AT = 1_800_000_000.123


def make(texts=("a",)):
    return Message(
        1 << 22, 1, MessageClass.OTP, "8613800138000", Carrier.CM, 86, Encoding.UCS2, texts,
        AT + 300, AT,
    )  # fmt: skip


def row(sequence, path, status, at, **columns):
    return EventRow(1 << 22, sequence, sequence, 1, path, status, at, **columns)


def test_times_are_whole_milliseconds_and_stay_so():
    for ms in range(1_800_000_000_000, 1_800_000_001_000):
        assert rfc3339(ms / 1000).endswith(f".{ms % 1000:03d}Z")
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000Z"


def test_a_masked_number_cannot_be_dialled():
    assert mask_number("8613800138000") == "+86138****8000"
    view = message_view(make(), channel_name=None, full_number=False)
    assert "13800138000" not in str(view)


def test_a_fresh_message():
    view = message_view(make(("a", "b")), channel_name=None, full_number=True)
    assert view["to"] == "+8613800138000"
    assert view["segments"] == 2
    assert [entry["status"] for entry in view["segment_states"]] == ["accepted", "accepted"]
    assert (view["submitted_at"], view["channel"], view["reason"]) == (None, None, None)


def test_a_long_message_whose_segments_differ():
    message = make(("a", "b"))
    rows = [
        row(2, Path.NOTE, State.SUBMITTED, AT + 1, segment=0, channel=7, carrier_id="x0"),
        row(3, Path.SUBMITTED, State.SUBMITTED, AT + 1.1, segment=1, channel=7, carrier_id="x1",
            times=(5, 100)),
        row(4, Path.NOTE, State.DELIVERED, AT + 2, segment=1, channel=7, code="DELIVRD"),
        row(5, Path.PARTIALLY_DELIVERED, State.UNDELIVERED, AT + 3, segment=0, channel=7,
            code="UNDELIV", reason="carrier.undelivered"),
    ]  # fmt: skip
    assert fold(message, rows) == 0
    view = message_view(message, channel_name="mobile-a", full_number=True)
    add_codes(view, rows)
    assert view["status"] == "partially_delivered"
    assert view["segment_states"] == [
        {"index": 0, "status": "undelivered", "carrier_code": "UNDELIV"},
        {"index": 1, "status": "delivered", "carrier_code": "DELIVRD"},
    ]
