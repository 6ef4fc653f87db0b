from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.notices import (
    ENVELOPE_BYTES,
    MAX_EVENT_BYTES,
    batch_body,
    notice_of_row,
    notices_of_stored,
    type_of_path,
)
from receipts.state import Path, apply_row
from sms.model import EventRow, Message, State
from tests.support.notify_world import TENANT, UNIX, new_message

MESSAGE_ID = 0x1234


def row(sequence: int, path: Path, status: State, **fields: object) -> EventRow:
    made: dict[str, Any] = {
        "message_id": MESSAGE_ID,
        "sequence": sequence,
        "event_id": 100 + sequence,
        "tenant": TENANT,
        "path": path,
        "status": status,
        "at": UNIX + sequence,
        **fields,
    }
    return EventRow(**made)


def told(message: Message, rows: list[EventRow]) -> list[tuple[str, str, str]]:
    """(type, status, previous) of the events of a life, made as the owner makes them."""
    made = []
    for one in rows:
        previous = message.state
        assert apply_row(message, one), one
        notice = notice_of_row(message, one, previous, channel_name="mobile-a")
        if notice is not None:
            data = notice.data
            made.append((notice.type, data["status"], data["previous_status"]))
    return made


def test_an_ordinary_life_gives_two_events():
    rows = [
        row(2, Path.SUBMITTED, State.SUBMITTED, channel=1, carrier_id="a"),
        row(3, Path.DELIVERED, State.DELIVERED, channel=1),
    ]
    assert told(new_message(MESSAGE_ID), rows) == [
        ("message.submitted", "submitted", "submitting"),
        ("message.delivered", "delivered", "submitted"),
    ]


def test_waiting_again_is_no_event_and_uncertain_is_one():
    rows = [
        row(2, Path.UNCERTAIN, State.UNCERTAIN, channel=1),
        row(3, Path.QUEUED, State.QUEUED, copy=1),
        row(4, Path.SUBMITTED, State.SUBMITTED, channel=2, copy=1, carrier_id="b"),
        row(5, Path.UNKNOWN, State.UNKNOWN, copy=1),
        row(6, Path.DELIVERED, State.DELIVERED, copy=1),
    ]
    assert told(new_message(MESSAGE_ID), rows) == [
        ("message.uncertain", "uncertain", "submitting"),
        ("message.submitted", "submitted", "submitting"),
        ("message.unknown", "unknown", "submitted"),
        ("message.delivered", "delivered", "unknown"),
    ]


@pytest.mark.parametrize(
    ("path", "status", "previous"),
    [
        (Path.EXPIRED, State.EXPIRED, "queued"),
        (Path.REJECTED, State.REJECTED, "queued"),
        (Path.QUEUE_FAILED, State.FAILED, "queued"),
        (Path.SUBMIT_FAILED, State.FAILED, "submitting"),
    ],
)
def test_an_event_reads_the_same_live_and_read_back(path: Path, status: State, previous: str):
    stored = new_message(MESSAGE_ID)
    live = new_message(MESSAGE_ID)
    live.state = State.QUEUED  # in a lane: no row says so
    one = row(2, path, status, channel=1)
    assert told(live, [one]) == told(stored, [one]) == [(f"message.{status}", status, previous)]


def test_a_note_about_one_segment_is_no_event():
    assert type_of_path(Path.NOTE) is None
    message = new_message(MESSAGE_ID)
    message.texts = ("a", "b")
    rows = [
        row(2, Path.NOTE, State.SUBMITTED, segment=0, channel=1, carrier_id="a"),
        row(3, Path.SUBMITTED, State.SUBMITTED, segment=1, channel=1, carrier_id="b"),
    ]
    assert [event[0] for event in told(message, rows)] == ["message.submitted"]


def test_a_row_shows_its_own_step_although_the_message_is_already_further():
    message = new_message(MESSAGE_ID)
    first = row(2, Path.SUBMITTED, State.SUBMITTED, channel=1, carrier_id="a")
    apply_row(message, first)
    apply_row(message, row(3, Path.DELIVERED, State.DELIVERED))
    notice = notice_of_row(message, first, State.ACCEPTED, channel_name=None)
    assert notice is not None
    assert (notice.data["status"], notice.data["sequence"]) == ("submitted", 2)


def test_an_unknown_previous_state_is_taken_for_submitted():
    message = new_message(MESSAGE_ID)
    one = row(2, Path.DELIVERED, State.DELIVERED)
    notice = notice_of_row(message, one, None, channel_name=None)
    assert notice is not None
    assert notice.data["previous_status"] == "submitted"


def test_only_the_wanted_sequences_are_rebuilt_each_as_it_stood_then():
    rows = [
        row(2, Path.SUBMITTED, State.SUBMITTED, channel=1, carrier_id="a"),
        row(3, Path.SUBMITTED, State.SUBMITTED, channel=1),  # illegal: it stands there already
        row(4, Path.UNDELIVERED, State.UNDELIVERED, reason="recipient.absent", code="UNDELIV"),
    ]
    (both,) = [notices_of_stored(new_message(MESSAGE_ID), rows, {2, 3, 4}, {1: "mobile-a"})]
    assert [(notice.sequence, notice.data["status"]) for notice in both] == [
        (2, "submitted"),
        (4, "undelivered"),
    ]
    assert both[0].data["reason"] is None
    assert both[1].data["reason"] == "recipient.absent"
    assert both[1].data["channel"] == "mobile-a"
    (last,) = notices_of_stored(new_message(MESSAGE_ID), rows, {4}, {})
    assert last.body(full_number=False) != b""
    assert notices_of_stored(new_message(MESSAGE_ID), rows, set(), {}) == []


def test_a_body_is_what_the_contract_says_and_is_encoded_once():
    message = new_message(MESSAGE_ID)
    one = row(2, Path.SUBMITTED, State.SUBMITTED, channel=1, carrier_id="a")
    apply_row(message, one)
    notice = notice_of_row(message, one, State.QUEUED, channel_name="mobile-a")
    assert notice is not None
    body = notice.body(full_number=False)
    assert notice.body(full_number=False) is body
    event = json.loads(body)
    assert list(event) == ["id", "type", "timestamp", "data"]
    assert event["id"] == "evt_0000000000000066"
    assert event["timestamp"] == "2027-01-15T08:00:02.000Z"
    assert event["data"]["id"] == "msg_0000000000001234"
    assert event["data"]["client_ref"] == "order-1"
    assert event["data"]["metadata"] == {"shop": "9"}
    assert event["data"]["to"] == "+86138****8000"
    assert json.loads(notice.body(full_number=True))["data"]["to"] == "+8613800138000"


def test_a_batch_is_whole_single_bodies_under_one_envelope():
    bodies = [b'{"id":"evt_1"}', b'{"id":"evt_2"}']
    batch = batch_body(bodies, UNIX)
    assert json.loads(batch) == {
        "type": "batch",
        "timestamp": "2027-01-15T08:00:00.000Z",
        "data": [{"id": "evt_1"}, {"id": "evt_2"}],
    }
    assert len(batch) - sum(map(len, bodies)) <= ENVELOPE_BYTES + len(bodies)


def test_an_event_stays_below_its_cap_and_keeps_metadata_as_long_as_it_can():
    message = new_message(MESSAGE_ID)
    message.texts = tuple("x" for _ in range(255))
    message.metadata = {"note": "m" * 4000}
    one = row(2, Path.SUBMITTED, State.SUBMITTED, channel=1)
    apply_row(message, one)
    notice = notice_of_row(message, one, State.QUEUED, channel_name="mobile-a")
    assert notice is not None
    body = notice.body(full_number=False)
    assert len(body) < MAX_EVENT_BYTES
    assert json.loads(body)["data"]["metadata"] == message.metadata
    notice = notice_of_row(message, one, State.QUEUED, channel_name="mobile-a")
    assert notice is not None
    notice.data["metadata"] = {"note": "\x01" * 4000}  # six bytes each in JSON
    body = notice.body(full_number=False)
    assert len(body) < MAX_EVENT_BYTES
    assert json.loads(body)["data"]["metadata"] is None
