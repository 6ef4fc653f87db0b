from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.notices import (
    ENVELOPE_BYTES,
    MAX_EVENT_BYTES,
    Notice,
    batch_body,
    event_data,
    notice_of_row,
    notices_of_stored,
    type_of_path,
)
from receipts.state import STATES_OF_PATH, Path, apply_row
from sms.model import Carrier, Encoding, EventRow, Message, MessageClass, State
from sms.reasons import BY_CODE
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


def data_of(notice: Notice) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(notice.body(full_number=False))["data"]
    return data


def told(message: Message, rows: list[EventRow]) -> list[tuple[str, str, str]]:
    """(type, status, previous) of the events of a life, made as the owner makes them."""
    made = []
    for one in rows:
        previous = message.state
        assert apply_row(message, one), one
        notice = notice_of_row(message, one, previous, channel_name="mobile-a")
        if notice is not None:
            data = data_of(notice)
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
    data = data_of(notice)
    assert (data["status"], data["sequence"]) == ("submitted", 2)


def test_an_unknown_previous_state_is_taken_for_submitted():
    message = new_message(MESSAGE_ID)
    one = row(2, Path.DELIVERED, State.DELIVERED)
    notice = notice_of_row(message, one, None, channel_name=None)
    assert notice is not None
    assert data_of(notice)["previous_status"] == "submitted"


def test_only_the_wanted_sequences_are_rebuilt_each_as_it_stood_then():
    rows = [
        row(2, Path.SUBMITTED, State.SUBMITTED, channel=1, carrier_id="a"),
        row(3, Path.SUBMITTED, State.SUBMITTED, channel=1),  # illegal: it stands there already
        row(4, Path.UNDELIVERED, State.UNDELIVERED, reason="recipient.absent", code="UNDELIV"),
    ]
    (both,) = [notices_of_stored(new_message(MESSAGE_ID), rows, {2, 3, 4}, {1: "mobile-a"})]
    assert [(notice.sequence, data_of(notice)["status"]) for notice in both] == [
        (2, "submitted"),
        (4, "undelivered"),
    ]
    assert data_of(both[0])["reason"] is None
    assert data_of(both[1])["reason"] == "recipient.absent"
    assert data_of(both[1])["channel"] == "mobile-a"
    (last,) = notices_of_stored(new_message(MESSAGE_ID), rows, {4}, {})
    assert last.body(full_number=False) != b""
    assert notices_of_stored(new_message(MESSAGE_ID), rows, set(), {}) == []


def test_events_of_a_long_message_name_each_segments_code_as_known_then() -> None:
    rows = [
        row(2, Path.SUBMITTED, State.SUBMITTED, channel=1),
        row(3, Path.NOTE, State.DELIVERED, segment=1, code="DELIVRD 000"),
        row(
            4, Path.PARTIALLY_DELIVERED, State.UNDELIVERED,
            segment=0, code="UNDELIV 034", reason="recipient.absent",
        ),
    ]  # fmt: skip

    def long_message() -> Message:
        return replace(new_message(MESSAGE_ID), texts=("a", "b"))

    def codes(notice: Notice) -> list[str | None]:
        return [one["carrier_code"] for one in data_of(notice)["segment_states"]]

    live, message = [], long_message()
    for one in rows:
        assert apply_row(message, one)
        notice = notice_of_row(message, one, None, channel_name=None)
        if notice is not None:
            live.append(codes(notice))
    stored = notices_of_stored(long_message(), rows, {2, 3, 4}, {})
    assert live == [codes(notice) for notice in stored]
    assert live == [[None, None], ["UNDELIV 034", "DELIVRD 000"]]


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
    message.metadata = {"note": "\x01" * 4000}  # six bytes each in JSON
    notice = notice_of_row(message, one, State.QUEUED, channel_name="mobile-a")
    assert notice is not None
    body = notice.body(full_number=False)
    assert len(body) < MAX_EVENT_BYTES
    assert json.loads(body)["data"]["metadata"] is None


TOLD = [path for path in Path if type_of_path(path)]
ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
AWKWARD = st.one_of(
    st.sampled_from(
        ['"', "\\", "a\x00b", "\x1f\x7f", "\u2028", "短信", "\U0001f600", "", "</script>"]
    ),
    ANY_TEXT,
)
MOMENTS = st.floats(1.7e9, 4e9)


@st.composite
def lives(draw: st.DrawFn) -> tuple[Message, EventRow, State | None]:
    """A message in any state with anything in its fields, a row of it, and where it stood."""
    size = draw(st.sampled_from([1, 1, 2, 3, 10]))
    path = draw(st.sampled_from(TOLD))
    message = Message(
        draw(st.integers(1, 2**63 - 1)),
        TENANT,
        draw(st.sampled_from(MessageClass)),
        draw(st.sampled_from(["8613800138000", "85291234567", "4915112345678", "8612345"])),
        draw(st.sampled_from(Carrier)),
        86,
        draw(st.sampled_from(Encoding)),
        ("",) * size,
        draw(MOMENTS),
        draw(MOMENTS),
        client_ref=draw(st.none() | AWKWARD),
        metadata=draw(st.none() | st.dictionaries(AWKWARD, AWKWARD, max_size=3)),
        state=draw(st.sampled_from(State)),
        sequence=draw(st.integers(1, 300)),
        copy=draw(st.integers(0, 1)),
        duplicate_risk=draw(st.booleans()),
        segment_states=draw(st.lists(st.sampled_from(State), max_size=size)),
        reason=draw(st.none() | st.sampled_from(sorted(BY_CODE)) | AWKWARD),
        carrier_code=draw(st.none() | AWKWARD),
        segment_codes=draw(
            st.just(())
            if size == 1
            else st.just(()) | st.tuples(*[st.none() | AWKWARD for _ in range(size)])
        ),
        submitted_at=draw(st.none() | MOMENTS),
        final_at=draw(st.none() | MOMENTS),
    )
    one = row(
        draw(st.integers(2, 300)), path, STATES_OF_PATH[path][-1],
        event_id=draw(st.integers(1, 2**63 - 1)), at=draw(MOMENTS), copy=message.copy,
    )  # fmt: skip
    return message, one, draw(st.none() | st.sampled_from(State))


@given(lives(), st.none() | AWKWARD)
@settings(max_examples=400, deadline=None)
def test_an_event_written_out_is_the_view_encoded(
    life: tuple[Message, EventRow, State | None], channel_name: str | None
) -> None:
    message, one, previous = life
    notice = notice_of_row(message, one, previous, channel_name=channel_name)
    assert notice is not None
    body = json.loads(notice.body(full_number=False))
    expected = event_data(message, one, body["data"]["previous_status"], channel_name)
    assert json.dumps(body["data"]) == json.dumps(expected)  # in the same order, too
    assert body["type"] == type_of_path(one.path)
    whole = json.loads(notice.body(full_number=True))
    assert whole["data"] == {**expected, "to": "+" + message.number}
    assert {**whole, "data": None} == {**body, "data": None}


@pytest.mark.parametrize("path", TOLD)
@pytest.mark.parametrize("previous", [None, *State])
def test_an_event_shows_where_its_message_stood(path: Path, previous: State | None) -> None:
    one = row(3, path, STATES_OF_PATH[path][-1])
    notice = notice_of_row(new_message(MESSAGE_ID), one, previous, channel_name=None)
    assert notice is not None
    stood = data_of(notice)["previous_status"]
    if len(STATES_OF_PATH[path]) > 1 and path not in {
        Path.FIRST_COPY_DELIVERED,
        Path.EXPIRED_LATE,
    }:
        assert stood == STATES_OF_PATH[path][-2]  # the row alone says so
    elif previous in {State.ACCEPTED, State.QUEUED}:
        assert stood == "queued"
    else:
        assert stood == (previous or State.SUBMITTED)


def test_events_that_share_their_look_do_not_share_their_fields() -> None:
    message = new_message(MESSAGE_ID)
    one = row(2, Path.DELIVERED, State.DELIVERED)
    other = replace(message, id=MESSAGE_ID + 1, client_ref="order-2")
    bodies = []
    for each in (message, other):
        notice = notice_of_row(each, one, None, channel_name="a")
        assert notice is not None
        bodies.append(data_of(notice))
    assert [body["client_ref"] for body in bodies] == ["order-1", "order-2"]
    assert bodies[0]["id"] != bodies[1]["id"]


def test_a_path_of_a_newer_version_is_no_event_of_ours() -> None:
    assert type_of_path(68) is None
    assert type_of_path(200) is None
