"""Events of texts from phones: what they show, what they hide, how long they may be."""

import json

import pytest

from gateway.inbound_notices import inbound_view, notices_of_inbound
from gateway.notices import MAX_EVENT_BYTES, type_of_path
from receipts.state import Path, PhonePath
from sms.model import EventRow, InboundMessage, MessageClass, State

NUMBER = "8613800138000"


def a_text(text="TD", **fields) -> InboundMessage:
    return InboundMessage(255, 3, NUMBER, "10690001", text, 7, 1_800_000_000.0, **fields)


def rows(count=1):
    paths = (PhonePath.RECEIVED, PhonePath.OPTED_OUT)
    return [
        EventRow(255, n + 1, 300 + n, 3, paths[n], State.ACCEPTED, 1_800_000_000.0, channel=7)
        for n in range(count)
    ]


def test_paths_of_texts_have_types_and_those_of_messages_keep_theirs():
    assert type_of_path(PhonePath.RECEIVED) == "inbound.received"
    assert type_of_path(PhonePath.OPTED_OUT) == "recipient.opted_out"
    assert type_of_path(Path.DELIVERED) == "message.delivered"
    assert type_of_path(40) is None
    assert not {int(path) for path in PhonePath} & {int(path) for path in Path}


def test_the_text_is_shown_and_the_number_only_to_who_opted_in():
    [notice] = notices_of_inbound(a_text('你好 "x"'), rows(), None, {7: "mobile-a"})
    event = json.loads(notice.body(full_number=False))
    assert (event["id"], event["type"]) == ("evt_000000000000012c", "inbound.received")
    assert event["data"]["from"] == "+86138****8000"
    assert event["data"]["text"] == '你好 "x"'
    assert event["data"]["channel"] == "mobile-a"
    whole = json.loads(notice.body(full_number=True))
    assert whole["data"].pop("from") == "+" + NUMBER
    del event["data"]["from"]
    assert whole == event


def test_an_opt_out_is_a_second_event_of_the_same_text():
    text = a_text(suppressed=frozenset({MessageClass.MARKETING, MessageClass.TRANSACTIONAL}))
    both = notices_of_inbound(text, rows(2), None, {})
    assert [notice.type for notice in both] == ["inbound.received", "recipient.opted_out"]
    told = json.loads(both[1].masked)["data"]
    assert (told["to"], told["classes"]) == ("+86138****8000", ["transactional", "marketing"])
    assert (told["sequence"], told["id"]) == (2, "inb_00000000000000ff")
    [second] = notices_of_inbound(text, rows(2), {2}, {})
    assert second.type == "recipient.opted_out"


def test_a_text_beyond_the_cap_is_cut_and_says_so():
    for long in ("好" * 12_000, '\x01"' * 9000):
        [notice] = notices_of_inbound(a_text(long), rows(), None, {})
        assert MAX_EVENT_BYTES - 200 < len(notice.masked) < MAX_EVENT_BYTES
        data = json.loads(notice.masked)["data"]
        assert data["text_cut"] is True
        assert long.startswith(data["text"])


def test_the_list_shows_the_same_fields():
    view = inbound_view(a_text(missing=1, segments=3), channel_name=None, full_number=True)
    assert (view["from"], view["incomplete"], view["missing_segments"]) == ("+" + NUMBER, True, 1)


@pytest.mark.parametrize(
    ("number", "masked"),
    [
        ('ABCD"EFGHIJ', "ABC****GHIJ"),
        ("a\\b\ncdefgh", "a\\****efgh"),
        ("CMCC", "****CMCC"),
        ('"', '****"'),
        ("10086", "+****0086"),
    ],
)
def test_a_sender_that_is_no_number_makes_no_body_that_is_no_json(number, masked):
    text = a_text("hello")
    text.number = number
    [notice] = notices_of_inbound(text, rows(), None, {})
    assert json.loads(notice.body(full_number=False))["data"]["from"] == masked
    whole = json.loads(notice.body(full_number=True))["data"]["from"]
    assert whole == (f"+{number}" if number.isdigit() else number)
    assert inbound_view(text, channel_name=None, full_number=True)["from"] == whole
