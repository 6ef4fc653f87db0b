import json
from dataclasses import replace

import pytest

from loadtest.sender import (
    KINDS,
    LAST,
    Plan,
    Requests,
    Tally,
    index_of,
    parse_answer,
    phone_number,
)
from sms.model import Carrier, Encoding
from sms.numbers import Number, parse_number
from sms.segmentation import Segmentation, segment


def plan(batch=1, first=0):
    return Plan(
        host="127.0.0.1",
        port=8080,
        api_key="smsgw_1_secret%",
        connections=1,
        batch=batch,
        seconds=1.0,
        messages=0,
        first=first,
        sent_file="unused",
    )


def split(request):
    head, body = request.split(b"\r\n\r\n", 1)
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return lines[0], headers, body


@pytest.mark.parametrize("index", [0, 1, 2, 3, 12_345_678, 50_000_000, LAST])
def test_every_message_has_a_number_that_can_be_sent_to_and_led_back(index):
    number = phone_number(index)
    assert isinstance(parse_number(number), Number)
    assert index_of(number) == index_of(number[1:]) == index


def test_numbers_are_distinct_and_spread_over_carriers():
    numbers = [phone_number(index) for index in range(1000)]
    assert len(set(numbers)) == 1000
    parsed = [parse_number(number) for number in numbers]
    carriers = {number.carrier for number in parsed if isinstance(number, Number)}
    assert {Carrier.CM, Carrier.CU, Carrier.CT, Carrier.OTHER} <= carriers


def test_the_texts_take_one_segment_and_both_encodings():
    encodings = set()
    for prefix, text in KINDS:
        signature = "【沙箱】" if prefix.startswith("+86") else ""
        found = segment(signature + text % LAST, "auto")
        assert isinstance(found, Segmentation)
        assert len(found.texts) == 1
        encodings.add(found.encoding)
    assert encodings == {Encoding.GSM7, Encoding.UCS2}


@pytest.mark.parametrize("first", [0, 1, 2, 3, 99_999_000])
def test_a_single_request_is_whole(first):
    line, headers, body = split(Requests(plan(first=first)).build(first))
    assert line == "POST /v1/messages HTTP/1.1"
    assert headers["authorization"] == "bearer smsgw_1_secret%"
    assert int(headers["content-length"]) == len(body)
    told = json.loads(body)
    assert told["to"] == phone_number(first)
    assert f"{first:08d}" in told["text"]


@pytest.mark.parametrize("first", [0, 3, 101])
def test_a_batch_carries_consecutive_messages(first):
    line, headers, body = split(Requests(plan(batch=7)).build(first))
    assert line == "POST /v1/batches HTTP/1.1"
    assert int(headers["content-length"]) == len(body)
    messages = json.loads(body)["messages"]
    assert [message["to"] for message in messages] == [
        phone_number(index) for index in range(first, first + 7)
    ]


@pytest.mark.parametrize("batch", [1, 3])
def test_each_keyed_request_has_a_key_of_its_own(batch):
    keyed = replace(plan(batch=batch), is_keyed=True)
    heads = [split(Requests(keyed).build(first)) for first in (0, 4)]  # of one template
    assert [headers["idempotency-key"] for _, headers, _ in heads] == [
        '"order-00000000"',
        '"order-00000004"',
    ]
    for _, headers, body in heads:
        assert headers["authorization"] == "bearer smsgw_1_secret%"
        assert int(headers["content-length"]) == len(body)
    assert "idempotency-key" not in split(Requests(plan()).build(0))[1]


def test_an_answer_in_pieces_is_waited_for():
    whole = b'HTTP/1.1 202 Accepted\r\ncontent-length: 11\r\n\r\n{"id":"m1"}'
    for cut in range(len(whole)):
        assert parse_answer(whole[:cut]) is None
    assert parse_answer(whole) == (202, b'{"id":"m1"}')


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n",
        b"SSH-2.0 \r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 202 Accepted\r\ncontent-length: 1\r\n\r\nxHTTP/1.1",
    ],
)
def test_what_is_no_answer_is_not_counted(data):
    with pytest.raises(ValueError, match=r"answer"):
        parse_answer(data)


def test_single_answers_are_counted_with_their_latency():
    tally = Tally(plan(first=10))
    for _ in range(3):
        tally.sent()
    assert tally.answered(10, 100.0, 100.002, (202, b"{}"))
    assert tally.answered(12, 100.0, 100.004, (202, b"{}"))
    assert not tally.answered(11, 100.0, 100.5, (503, b'{"code":"shed.queue_full"}'))
    result = tally.finish()
    assert (result.accepted, result.unknown, result.used) == (2, 0, 3)
    assert result.refused == {"503 shed.queue_full": 1}
    assert result.answer_ms.count == 2
    assert result.answer_ms.maximum == pytest.approx(4.0)
    assert "shed.queue_full" in result.first_refusal
    assert list(tally.sent_at) == [100.0, 0.0, 100.0]


def test_outcome_unknown_and_a_lost_connection_are_neither_accepted_nor_refused():
    tally = Tally(plan(batch=2))
    tally.sent()
    tally.sent()
    assert not tally.answered(0, 1.0, 2.0, (503, b'{"code":"outcome_unknown"}'))
    tally.lost(3.0)
    result = tally.finish()
    assert (result.accepted, result.refused, result.unknown) == (0, {}, 4)


def test_a_batch_counts_each_verdict():
    tally = Tally(plan(batch=3))
    tally.sent()
    body = json.dumps(
        {
            "id": "bat_1",
            "accepted": [{"index": 0, "id": "msg_a", "segments": 1}, {"index": 2, "id": "msg_b"}],
            "rejected": [{"index": 1, "code": "recipient.invalid", "detail": "…"}],
        }
    ).encode()
    assert not tally.answered(0, 5.0, 5.1, (202, body))
    result = tally.finish()
    assert (result.accepted, result.refused) == (2, {"recipient.invalid": 1})
    assert list(tally.sent_at) == [5.0, 0.0, 5.0]


@pytest.mark.parametrize(("name", "value"), [("connections", 0), ("batch", 0), ("first", LAST + 1)])
def test_an_impossible_plan_is_refused(name, value):
    fields = {field: getattr(plan(), field) for field in Plan.__dataclass_fields__}
    with pytest.raises(ValueError, match="must be"):
        Plan(**{**fields, name: value}).check()
